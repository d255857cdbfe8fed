"""JSON Schemas of everything on the wire, and one AsyncAPI document of what travels where."""

from __future__ import annotations

import inspect
from typing import Any, Final, TypeAlias

import msgspec

from schemas.envelope import SCHEMA_VERSION, Envelope
from schemas.events import EVENT_TYPES
from schemas.external import LABEL_FIELDS, IncomingLabel, IncomingQuestion

Document: TypeAlias = dict[str, Any]

ENVELOPE: Final = "envelope"
#: Records from outside, which travel without an envelope, by the name of their schema.
EXTERNAL: Final[dict[str, type[msgspec.Struct]]] = {
    "incoming.question": IncomingQuestion,
    "incoming.label": IncomingLabel,
}
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_COMPONENTS: Final = "#/components/schemas/"
_STREAM_KEY: Final[Document] = {"type": "string", "format": "uuid", "description": "The stream."}


class Channel(msgspec.Struct, frozen=True, kw_only=True):
    """A topic as the document shows it.

    `messages` are event types or names of `EXTERNAL`; `group` is the consumer group inside (None:
    read outside only); `inbound` when anyone may write to it.
    """

    topic: str
    description: str
    key: str
    messages: tuple[str, ...]
    group: str | None = None
    inbound: bool = False


def json_schemas() -> dict[str, Document]:
    """One self-contained JSON Schema per payload and external record, and one for the envelope.

    The envelope's schema refers to the payloads' by file name (``question.asked.json``).
    """
    schemas = {name: _alone(cls) for name, cls in (EVENT_TYPES | EXTERNAL).items()}
    schemas["incoming.question"]["propertyNames"] = {"not": {"enum": sorted(LABEL_FIELDS)}}
    schemas[ENVELOPE] = _envelope_alone()
    return {name: _clean(schemas[name]) for name in sorted(schemas)}


def asyncapi(channels: tuple[Channel, ...]) -> Document:
    """The AsyncAPI 3.0 document of `channels`. Raises `KeyError` for an unknown message."""
    travelling = sorted({name for channel in channels for name in channel.messages})
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "MIA events",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": (
                "Topics carry work and facts; the ledger is the truth. A topic may repeat, "
                "reorder or lose a record: read by event id, and by `seq` within a `stream`. "
                "Tolerate unknown fields; set unknown types aside."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {channel.topic: _channel(channel) for channel in channels},
        "operations": dict(op for channel in channels for op in _operations(channel)),
        "components": {
            "messages": {name: _message(name) for name in travelling},
            "schemas": _clean(_components()),
        },
    }


def summary(cls: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n", maxsplit=1)[0].split())


def _alone(cls: type[msgspec.Struct]) -> Document:
    schema = msgspec.json.schema(cls)
    own = schema["$defs"].pop(cls.__name__)
    rest = {"$defs": schema["$defs"]} if schema["$defs"] else {}
    return {"$schema": _DIALECT, **own, **rest}


def _envelope_alone() -> Document:
    (_, components) = msgspec.json.schema_components([Envelope])
    own = components[Envelope.__name__]
    data = {"oneOf": [{"$ref": f"{name}.json"} for name in sorted(EVENT_TYPES)]}
    return {"$schema": _DIALECT, **own, "properties": {**own["properties"], "data": data}}


def _components() -> Document:
    types = [Envelope, *EVENT_TYPES.values(), *EXTERNAL.values()]
    (_, components) = msgspec.json.schema_components(types, ref_template=_COMPONENTS + "{name}")
    return dict(sorted(components.items()))


def _clean(schema: Any) -> Any:  # noqa: ANN401 - any JSON value
    """The schema without the source's indentation and without OpenAPI's discriminators."""
    if isinstance(schema, list):
        return [_clean(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {name: _clean(value) for name, value in schema.items() if name != "discriminator"}
    if isinstance(text := kept.get("description"), str):
        kept["description"] = inspect.cleandoc(text)
    return kept


def _message(name: str) -> Document:
    cls = (EVENT_TYPES | EXTERNAL)[name]
    payload: Document = {"$ref": _COMPONENTS + cls.__name__}
    if name in EXTERNAL:
        return {"name": name, "title": cls.__name__, "summary": summary(cls), "payload": payload}
    narrowed = {"properties": {"type": {"const": name}, "data": payload}}
    return {
        "name": name,
        "title": cls.__name__,
        "summary": summary(cls),
        "correlationId": {"location": "$message.payload#/correlation"},
        "payload": {"allOf": [{"$ref": _COMPONENTS + Envelope.__name__}, narrowed]},
        "bindings": {"kafka": {"key": _STREAM_KEY, "bindingVersion": "0.5.0"}},
    }


def _channel(channel: Channel) -> Document:
    return {
        "address": channel.topic,
        "description": f"{channel.description} Key: {channel.key}.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in channel.messages},
        "bindings": {"kafka": {"topic": channel.topic, "bindingVersion": "0.5.0"}},
    }


def _operations(channel: Channel) -> list[tuple[str, Document]]:
    operations = []
    if not channel.inbound:
        operations.append((f"send.{channel.topic}", _operation("send", channel)))
    if channel.group is not None:
        received = _operation("receive", channel)
        group = {"type": "string", "const": channel.group}
        received["bindings"] = {"kafka": {"groupId": group, "bindingVersion": "0.5.0"}}
        operations.append((f"receive.{channel.topic}", received))
    return operations


def _operation(action: str, channel: Channel) -> Document:
    base = f"#/channels/{channel.topic}"
    return {
        "action": action,
        "channel": {"$ref": base},
        "messages": [{"$ref": f"{base}/messages/{name}"} for name in channel.messages],
    }


__all__ = ["ENVELOPE", "EXTERNAL", "Channel", "Document", "asyncapi", "json_schemas", "summary"]
