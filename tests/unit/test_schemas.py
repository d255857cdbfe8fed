"""The generated schemas: current, complete, and with every reference resolving."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mia_events import topics
from mia_events.lifecycle import TABLES
from mia_events.lifecycle.travel import PURPOSE, travels
from ops.generate.outputs import ROOT, generated, stale, write
from ops.generate.sections import channels
from schemas.envelope import Envelope
from schemas.events import EVENT_TYPES
from schemas.export import ENVELOPE, EXTERNAL, asyncapi, json_schemas
from schemas.external import LABEL_FIELDS

SCHEMAS = json_schemas()
DOCUMENT = asyncapi(channels())


def references(node: Any) -> Iterator[str]:
    """Every `$ref` within a document."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"]
        for child in node.values():
            yield from references(child)
    elif isinstance(node, list):
        for child in node:
            yield from references(child)


def resolved(document: Any, reference: str) -> Any:
    """What a local reference points at; `KeyError` when there is nothing."""
    assert reference.startswith("#/"), reference
    node = document
    for part in reference[2:].split("/"):
        node = node[part]
    return node


def faults(schema: dict[str, Any], value: Any, root: dict[str, Any]) -> Iterator[str]:
    """What is wrong with a value by the part of JSON Schema that the generated schemas use."""
    if "$ref" in schema:
        yield from faults(resolved(root, schema["$ref"]), value, root)
    if "enum" in schema and value not in schema["enum"]:
        yield f"{value!r} is none of {schema['enum']}"
    if "anyOf" in schema and all(any(faults(s, value, root)) for s in schema["anyOf"]):
        yield f"{value!r} fits no alternative"
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "null": type(None),
    }
    if "type" in schema and not isinstance(value, kinds[schema["type"]]):
        yield f"{value!r} is no {schema['type']}"
    elif isinstance(value, dict):
        yield from (
            f"{name} is missing" for name in schema.get("required", ()) if name not in value
        )
        for name, item in value.items():
            yield from faults(schema.get("properties", {}).get(name, {}), item, root)
    elif isinstance(value, list):
        for item in value:
            yield from faults(schema.get("items", {}), item, root)


def test_there_is_a_schema_for_everything_on_the_wire() -> None:
    """Every payload, the envelope, and every record from outside."""
    assert {*EVENT_TYPES, *EXTERNAL, ENVELOPE} == set(SCHEMAS)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_is_described_and_its_references_resolve(name: str) -> None:
    """A reader of one file needs that file, or for the envelope its neighbours."""
    schema = SCHEMAS[name]
    local = [ref for ref in references(schema) if ref.startswith("#")]
    files = [ref.removesuffix(".json") for ref in references(schema) if not ref.startswith("#")]
    assert all(resolved(schema, ref)["title"] for ref in local)
    assert set(files) <= set(EVENT_TYPES)
    assert "  " not in schema["description"]
    assert schema["type"] == "object"


def test_the_envelope_names_every_payload() -> None:
    """Its `data` is one of the payloads' schemas."""
    found = {reference.removesuffix(".json") for reference in references(SCHEMAS[ENVELOPE])}
    assert set(EVENT_TYPES) == found


@pytest.mark.parametrize("type_", sorted(EVENT_TYPES))
def test_the_golden_samples_fit_the_schemas(type_: str) -> None:
    """What is written as documentation is what is on the wire."""
    record = json.loads((ROOT / f"schemas/golden/v1/{type_}.json").read_bytes())
    assert [] == list(faults(SCHEMAS[type_], record["data"], SCHEMAS[type_]))
    header = {**SCHEMAS[ENVELOPE], "properties": {**SCHEMAS[ENVELOPE]["properties"], "data": {}}}
    assert [] == list(faults(header, record, header))


def test_a_wrong_payload_does_not_fit_its_schema() -> None:
    """The check above can fail: a missing field, a wrong type, another event's tag."""
    schema = SCHEMAS["question.rerouted"]
    wrong = {"type": "question.routed", "remaining": ["1"]}
    expected = [
        "candidate is missing",
        "'question.routed' is none of ['question.rerouted']",
        "'1' is no integer",
    ]
    assert expected == list(faults(schema, wrong, schema))


def test_the_question_schema_forbids_label_fields() -> None:
    """A client that checks before it sends is told the same as by the refusal."""
    forbidden = SCHEMAS["incoming.question"]["propertyNames"]["not"]["enum"]
    assert sorted(LABEL_FIELDS) == forbidden
    assert set(SCHEMAS["incoming.question"]["properties"]).isdisjoint(LABEL_FIELDS)


def test_every_asyncapi_reference_resolves() -> None:
    """Channels to messages, operations to channels, messages to schemas."""
    found = list(references(DOCUMENT))
    assert all(isinstance(resolved(DOCUMENT, reference), dict) for reference in found)
    assert len(found) > len(EVENT_TYPES)


def test_channels_are_the_topics_and_carry_what_the_tables_send() -> None:
    """Each event of a rule with a topic or an outbox is a message of exactly that channel."""
    expected = {
        (topic, event)
        for table in TABLES.values()
        for (_, event), rule in table.items()
        for topic in (rule.topic, rule.outbox)
        if topic is not None
    }
    expected |= {
        (topics.DEAD_LETTER, "dead_letter"),
        (topics.QUESTION, "incoming.question"),
        (topics.FEEDBACK, "incoming.label"),
    }
    found = {
        (channel["address"], message)
        for channel in DOCUMENT["channels"].values()
        for message in channel["messages"]
    }
    assert expected == found
    assert list(topics.ALL) == [channel["address"] for channel in DOCUMENT["channels"].values()]


def test_every_message_is_an_envelope_of_its_type_or_a_record_from_outside() -> None:
    """The message's name, its tag and its schema are of one event."""
    for name, message in DOCUMENT["components"]["messages"].items():
        cls = (EVENT_TYPES | EXTERNAL)[name]
        assert (name, cls.__name__) == (message["name"], message["title"])
        if name in EXTERNAL:
            assert f"#/components/schemas/{cls.__name__}" == message["payload"]["$ref"]
            continue
        header, narrowed = message["payload"]["allOf"]
        assert f"#/components/schemas/{Envelope.__name__}" == header["$ref"]
        assert {"const": name} == narrowed["properties"]["type"]
        tag = resolved(DOCUMENT, narrowed["properties"]["data"]["$ref"])["properties"]["type"]
        assert {"enum": [name]} == tag


def test_operations_say_who_sends_and_which_group_receives() -> None:
    """Nothing is sent to an inbound topic from here, and only users read the outbound ones."""
    sent, received = {}, {}
    for operation in DOCUMENT["operations"].values():
        channel = resolved(DOCUMENT, operation["channel"]["$ref"])
        base = operation["channel"]["$ref"] + "/messages/"
        assert [base + name for name in channel["messages"]] == [
            message["$ref"] for message in operation["messages"]
        ]
        if operation["action"] == "send":
            sent[channel["address"]] = operation
        else:
            received[channel["address"]] = operation["bindings"]["kafka"]["groupId"]["const"]
    assert {*topics.COMMANDS, *topics.OUTBOUND} == set(sent)
    assert {t: topics.group_of(t) for t in (*topics.INBOUND, *topics.COMMANDS)} == received


def test_every_topic_has_a_purpose_and_its_keys_kinds() -> None:
    """A topic without a word on it would be a puzzle in the document."""
    assert list(topics.ALL) == [travel.topic for travel in travels()]
    assert set(topics.ALL) == set(PURPOSE)
    assert all(travel.kinds for travel in travels() if travel.topic in topics.COMMANDS)


def test_the_generated_files_are_current() -> None:
    """If this fails, run `make docs` and commit what it wrote."""
    assert [] == stale(ROOT)


def test_writing_mends_what_is_stale_and_says_so(tmp_path: Path) -> None:
    """Changed, missing and left-over files are named by the check, then put right."""
    page = tmp_path / "docs" / "architecture.md"
    page.parent.mkdir()
    page.write_bytes((ROOT / "docs" / "architecture.md").read_bytes())
    write(tmp_path)
    assert [] == stale(tmp_path)
    changed, missing, extra = (
        tmp_path / "docs" / name
        for name in ("asyncapi.json", "schemas/envelope.json", "schemas/old.event.json")
    )
    changed.write_text("{}")
    missing.unlink()
    extra.write_text("{}")
    expected = [
        (Path("docs/asyncapi.json"), "out of date"),
        (Path("docs/schemas/envelope.json"), "missing"),
        (Path("docs/schemas/old.event.json"), "no longer generated"),
    ]
    assert expected == stale(tmp_path)
    assert [path for path, _ in expected] == write(tmp_path)
    assert [] == stale(tmp_path)


def test_generating_twice_gives_the_same_bytes() -> None:
    """Nothing generated depends on the order of a set or on the time."""
    assert generated(ROOT) == generated(ROOT)
