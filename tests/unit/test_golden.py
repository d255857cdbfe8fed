"""What is on the wire: golden samples decode for ever, and strange bytes are named, not fatal."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.generate.golden import golden_payload, golden_sample
from ops.generate.outputs import ROOT, missing_samples
from schemas.envelope import (
    Envelope,
    Malformed,
    UnknownType,
    Unreadable,
    decode_envelope,
    decode_payload,
    encode_envelope,
    encode_payload,
)
from schemas.events import EVENT_TYPES, Event, QuestionRouted, event_type

GOLDEN = ROOT / "schemas" / "golden"
SAMPLES = sorted((GOLDEN / "v1").glob("*.json"))
DEEP = 100_000

raws = st.dictionaries(st.text(), st.integers() | st.text()).map(
    lambda value: msgspec.Raw(msgspec.json.encode(value))
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's annotated type; JSON has no NaN and no infinity."""
    arguments = get_args(hint)
    if hint is float:
        return st.floats(allow_nan=False, allow_infinity=False)
    if hint is msgspec.Raw:
        return raws
    if get_origin(hint) is tuple:
        return st.lists(values(arguments[0]), max_size=5).map(tuple)
    if get_origin(hint) is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), max_size=5)
    if get_origin(hint) in (Union, UnionType):
        return st.one_of(*map(values, arguments))
    is_struct = isinstance(hint, type) and issubclass(hint, msgspec.Struct)
    return structs(hint) if is_struct else st.from_type(hint)


def structs(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Instances of a struct type with any value in each field."""
    hints = get_type_hints(cls)
    return st.builds(cls, **{name: values(hints[name]) for name in cls.__struct_fields__})


def test_every_event_type_has_a_sample_and_nothing_else_has() -> None:
    """An event without a sample could change unnoticed; a sample without an event was orphaned."""
    assert sorted(EVENT_TYPES) == [path.stem for path in SAMPLES]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_sample_decodes_for_ever_to_the_same_bytes(path: Path) -> None:
    """If it does not, retained records cannot be read: mend the struct, leave the sample."""
    wire = path.read_bytes().removesuffix(b"\n")
    envelope = decode_envelope(wire)
    assert path.stem == envelope.type == event_type(envelope.data)
    assert wire == encode_envelope(envelope)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_a_samples_payload_decodes_alone(path: Path) -> None:
    """The ledger stores the payload's bytes as they are within the envelope."""
    envelope = decode_envelope(path.read_bytes())
    body = encode_payload(envelope.data)
    assert envelope.data == decode_payload(body)
    assert body in path.read_bytes()


@pytest.mark.parametrize("type_", sorted(EVENT_TYPES))
def test_a_new_sample_has_every_field(type_: str) -> None:
    """A field that equals its default is left out on the wire, and would prove nothing."""
    record = json.loads(golden_sample(type_))
    assert set(EVENT_TYPES[type_].__struct_encode_fields__) | {"type"} == set(record["data"])
    assert set(Envelope.__struct_encode_fields__) - {"schema_version"} == set(record)


@pytest.mark.parametrize("type_", sorted(EVENT_TYPES))
def test_equal_payloads_have_equal_bytes(type_: str) -> None:
    """Whether a default was left to itself, given, or read from somewhere."""
    default = {
        field.name: field.default
        for field in msgspec.structs.fields(EVENT_TYPES[type_])
        if isinstance(field.default, str)
    }
    plain = msgspec.structs.replace(golden_payload(type_), **default)
    read = {name: "".join(list(value)) for name, value in default.items()}
    assert encode_payload(plain) == encode_payload(msgspec.structs.replace(plain, **read))
    assert encode_payload(plain) == encode_payload(decode_payload(encode_payload(plain)))


def test_an_existing_sample_is_never_written_again(tmp_path: Path) -> None:
    """The generator adds what is missing and leaves what is there, whatever it holds."""
    kept = tmp_path / "schemas" / "golden" / "v1" / "batch.ended.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"as it was")
    offered = {path.stem for path in missing_samples(tmp_path)}
    assert set(EVENT_TYPES) - {"batch.ended"} == offered


def test_fields_of_a_newer_writer_are_tolerated() -> None:
    """Fields that this version does not know, in envelope and payload, are passed over."""
    envelope = decode_envelope((GOLDEN / "newer" / "extra-fields.json").read_bytes())
    known = decode_envelope((GOLDEN / "v1" / "question.routed.json").read_bytes())
    assert known == envelope


@pytest.mark.parametrize(
    "name,expected",
    [
        ("unknown-type", "unknown event type 'question.translated'"),
        ("unknown-version", "unknown schema version 2"),
    ],
)
def test_what_a_newer_version_wrote_is_unknown_not_malformed(name: str, expected: str) -> None:
    """It is to be parked until this version is upgraded, not to be dead-lettered."""
    with pytest.raises(UnknownType, match=expected):
        decode_envelope((GOLDEN / "newer" / f"{name}.json").read_bytes())


def test_a_readable_record_of_a_newer_schema_version_is_unknown_too() -> None:
    """That its fields still fit says nothing about what they mean."""
    with pytest.raises(UnknownType, match="unknown schema version 2"):
        decode_envelope(record_with(lambda record: record.update(schema_version=2)))


def test_an_unknown_payload_is_unknown_by_its_tag() -> None:
    """A stored payload has no envelope; its own tag tells."""
    with pytest.raises(UnknownType, match=r"unknown event type 'question\.translated'"):
        decode_payload(b'{"type":"question.translated","language":"ga"}')


def record_with(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The golden `question.routed` record after a change."""
    record = json.loads((GOLDEN / "v1" / "question.routed.json").read_bytes())
    change(record)
    return json.dumps(record).encode()


@pytest.mark.parametrize(
    "change,expected",
    [
        (lambda r: r.pop("id"), "required field `id`"),
        (lambda r: r.pop("data"), "required field `data`"),
        (lambda r: r.update(id="7"), "`$.id`"),
        (lambda r: r.update(id=None), "`$.id`"),
        (lambda r: r.update(stream=[]), "`$.stream`"),
        (lambda r: r.update(seq=0), "`$.seq`"),
        (lambda r: r.update(seq=2**31), "`$.seq`"),
        (lambda r: r.update(seq=10**4_000), "`$.seq`"),
        (lambda r: r.update(seq=1.5), "`$.seq`"),
        (lambda r: r.update(schema_version=0), "`$.schema_version`"),
        (lambda r: r.update(occurred_at="yesterday"), "`$.occurred_at`"),
        (lambda r: r.update(occurred_at="2026-01-02T03:04:05"), "`$.occurred_at`"),
        (lambda r: r.update(cause="x"), "`$.cause`"),
        (lambda r: r.update(data=[]), "`$.data`"),
        (lambda r: r["data"].pop("order"), "`$.data`"),
        (lambda r: r["data"].update(order="0,1"), "`$.data.order`"),
        (lambda r: r["data"].update(order=[0, "1"]), "`$.data.order[1]`"),
        (lambda r: r["data"].pop("type"), "`$.data`"),
        (lambda r: r["data"].update(type=["x"]), "`$.data.type`"),
        (lambda r: r["data"].update(type="question.translated"), "`$.data.type`"),
        (lambda r: r["data"].update(type="question.planned"), "`$.type`"),
        (lambda r: r.update(type="question.planned"), "`$.type`"),
        (lambda r: r.update(type="question.translated"), "`$.type`"),
        (lambda r: (r.update(type="x.new", data={}), r.pop("run")), "`$.data`"),
    ],
)
def test_a_malformed_record_names_the_path_of_its_fault(
    change: Callable[[dict[str, Any]], object], expected: str
) -> None:
    """An operator learns from the dead letter which field was wrong."""
    with pytest.raises(Malformed) as malformed:
        decode_envelope(record_with(change))
    assert expected in str(malformed.value)


@pytest.mark.parametrize(
    "fault",
    [
        b"",
        b"\x00",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"{",
        b'{"type":',
        b"NaN",
        b"\xff\xfe",
        b'{"type":"question.graded","x":"\xff"',
        b'{"type":"\xff"}',
        b'{"\xff":1}',
        b'{"type":"\\ud800"}',
        b"[" * DEEP,
        b"[" * DEEP + b"]" * DEEP,
        b'{"type":' * DEEP + b"1" + b"}" * DEEP,
        b'{"type":"question.graded","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"type":"question.new","x":' + b"[" * DEEP + b"]" * DEEP + b"}",
        b'{"type":"turn.tool_called","turn":1,"text":"","tool":"","arguments":'
        + b"[" * DEEP
        + b"}",
        b'{"type":"batch.ended","number":' + b"9" * 10_000 + b"}",
        b'{"type":"run.resumed","paused_seconds":1e400}',
        b'{"type":"run.resumed","paused_seconds":NaN}',
        b'{"type":"rollout.judged","judge":"","grade":"' + b"x" * 10_000 + b'"}',
    ],
)
def test_bytes_that_are_no_event_are_malformed_as_payload_and_as_record(fault: bytes) -> None:
    """Depth, size and encoding of what a stranger sends end in a short message, not in a crash."""
    sample = (GOLDEN / "v1" / "question.graded.json").read_bytes()
    own_data = encode_payload(decode_envelope(sample).data)
    for read, record in (
        (decode_payload, fault),
        (decode_envelope, fault),
        (decode_envelope, sample.replace(own_data, fault)),
    ):
        with pytest.raises(Malformed) as malformed:
            read(record)
        assert len(str(malformed.value)) < 300
        assert f"({len(record)} bytes)" in str(malformed.value)


def test_of_a_repeated_key_the_last_counts() -> None:
    """Every reader of a record sees one value; re-encoding leaves one."""
    payload = decode_payload(b'{"type":"question.routed","order":[1],"order":[2,0]}')
    assert QuestionRouted(order=(2, 0)) == payload
    assert b'{"type":"question.routed","order":[2,0]}' == encode_payload(payload)


def test_a_nul_character_survives_the_round_trip() -> None:
    """A model may write one; the ledger's bytes hold it escaped."""
    payload = QuestionRouted(order=(), method="a\0b")
    assert payload == decode_payload(encode_payload(payload))
    assert b"\0" not in encode_payload(payload)


@pytest.mark.parametrize("cls", EVENT_TYPES.values(), ids=list(EVENT_TYPES))
@given(data=st.data())
def test_every_payload_survives_the_round_trip(cls: type[Event], data: st.DataObject) -> None:
    """Any value in any field: decoded equal, and encoded again to the same bytes."""
    payload = data.draw(structs(cls))
    body = encode_payload(payload)
    assert payload == decode_payload(body)
    assert body == encode_payload(decode_payload(body))


@given(
    ids=st.tuples(*[st.uuids()] * 3),
    seq=st.integers(1, 2**31 - 1),
    optional=st.tuples(st.none() | st.uuids(), st.none() | st.uuids(), st.none() | st.text()),
    occurred_at=st.datetimes(timezones=st.just(UTC)),
)
def test_every_envelope_survives_the_round_trip(
    ids: tuple[UUID, UUID, UUID],
    seq: int,
    optional: tuple[UUID | None, UUID | None, str | None],
    occurred_at: datetime,
) -> None:
    """Any identity, cause and time."""
    envelope = Envelope(
        id=ids[0],
        type="question.routed",
        run=ids[1],
        stream=ids[2],
        seq=seq,
        cause=optional[0],
        correlation=optional[1],
        trace=optional[2],
        occurred_at=occurred_at,
        data=QuestionRouted(order=(0,)),
    )
    assert envelope == decode_envelope(encode_envelope(envelope))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "data", "x"]), inner),
    max_leaves=8,
)


@given(record=st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_read_or_unreadable(record: bytes) -> None:
    """Nothing but `Unreadable`, whose message is never empty, comes out of the readers."""
    assert said(decode_payload, record)
    assert said(decode_envelope, record)


def said(read: Callable[[bytes], Any], record: bytes) -> str:
    """What came of reading: the type that was read, or why it could not be."""
    try:
        return type(read(record)).__name__
    except Unreadable as unreadable:
        return str(unreadable)


@given(position=st.integers(0, 10_000), value=st.integers(0, 255), path=st.sampled_from(SAMPLES))
def test_a_damaged_record_is_read_or_unreadable(position: int, value: int, path: Path) -> None:
    """One byte of a real record changed: still an event, or a stated fault."""
    wire = bytearray(path.read_bytes())
    wire[position % len(wire)] = value
    assert said(decode_envelope, bytes(wire))
