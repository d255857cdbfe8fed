"""The one envelope every record travels in, and how records are read without trusting them."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Protocol
from uuid import UUID

import msgspec

from schemas.events import EVENT_TYPES, Event, Payload, event_type

SCHEMA_VERSION: Final = 1
_MAX_QUOTED: Final = 200


class _Header(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: UUID
    type: str
    # Left out on the wire while it is 1, so absence must mean 1 for ever.
    schema_version: Annotated[int, msgspec.Meta(ge=1)] = 1
    run: UUID
    stream: UUID
    seq: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)]
    cause: UUID | None = None
    correlation: UUID | None = None
    occurred_at: Annotated[datetime, msgspec.Meta(tz=True)]
    trace: str | None = None


class Envelope(_Header, frozen=True, kw_only=True, omit_defaults=True):
    """A payload with its identity.

    `stream` is the unit of order and `seq` its place in it (from 1); `cause` is the event that led
    here, `correlation` the question, `trace` a W3C traceparent.
    """

    data: Payload


class Unreadable(ValueError):
    """A record that cannot be turned into an event."""


class Malformed(Unreadable):
    """The bytes are no event: dead-letter them."""


class UnknownType(Unreadable):
    """A well-formed record of a type or schema version that is newer than this code: park it."""


class _Tag(msgspec.Struct):
    type: str


_payload_decoder: msgspec.json.Decoder[Payload] = msgspec.json.Decoder(Payload)
_envelope_decoder = msgspec.json.Decoder(Envelope)
_header_decoder = msgspec.json.Decoder(_Header)
_tag_decoder = msgspec.json.Decoder(_Tag)
_encoder = msgspec.json.Encoder()
#: Fields whose default is a word, by type of event.
_WORDS: Final[dict[type[Event], tuple[tuple[str, str], ...]]] = {
    event: words
    for event in EVENT_TYPES.values()
    if (
        words := tuple(
            (field.name, field.default)
            for field in msgspec.structs.fields(event)
            if isinstance(field.default, str) and field.default
        )
    )
}
#: Whatever the decoder raises on bytes from a stranger: the last two for bytes that are no UTF-8
#: and for nesting deeper than the interpreter's stack.
_FAULTS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def encode_payload(payload: Event) -> bytes:
    """The bytes that the ledger stores, hashes and publishes for `payload`.

    Equal payloads have equal bytes. The library leaves a default out only if it is the very object,
    which a text that was read from somewhere never is.
    """
    for name, default in _WORDS.get(type(payload), ()):
        value = getattr(payload, name)
        if value is not default and value == default:
            payload = msgspec.structs.replace(payload, **{name: default})
    return _encoder.encode(payload)


def decode_payload(body: bytes) -> Payload:
    """Read a stored payload. Raises `Malformed` or `UnknownType`."""
    try:
        return _payload_decoder.decode(body)
    except _FAULTS as error:
        tag = _read(_tag_decoder, body)
        raise _unreadable(body, error, tag.type if tag is not None else None) from error


class _Wire(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An envelope around payload bytes that are encoded already."""

    id: UUID
    type: str
    schema_version: int = SCHEMA_VERSION
    run: UUID
    stream: UUID
    seq: int
    cause: UUID | None = None
    correlation: UUID | None = None
    occurred_at: datetime
    trace: str | None = None
    data: msgspec.Raw


class Stored(Protocol):
    """An event as the ledger holds it; `body` are the payload's bytes."""

    @property
    def id(self) -> UUID: ...
    @property
    def type(self) -> str: ...
    @property
    def stream(self) -> UUID: ...
    @property
    def seq(self) -> int: ...
    @property
    def cause(self) -> UUID | None: ...
    @property
    def correlation(self) -> UUID | None: ...
    @property
    def at(self) -> datetime: ...
    @property
    def body(self) -> bytes: ...


def traceparent(correlation: UUID, event: UUID) -> str:
    """A W3C traceparent: one trace per question, one span per event, derived from their ids."""
    return f"00-{correlation.hex}-{event.hex[:16]}-01"


def encode_wire(event: Stored, *, run: UUID) -> bytes:
    """The record of a stored event, its payload bytes unchanged."""
    trace = traceparent(event.correlation, event.id) if event.correlation is not None else None
    return _encoder.encode(
        _Wire(
            id=event.id,
            type=event.type,
            run=run,
            stream=event.stream,
            seq=event.seq,
            cause=event.cause,
            correlation=event.correlation,
            occurred_at=event.at,
            trace=trace,
            data=msgspec.Raw(event.body),
        )
    )


def encode_envelope(envelope: Envelope) -> bytes:
    """The JSON bytes of a record."""
    return _encoder.encode(envelope)


def decode_envelope(record: bytes) -> Envelope:
    """Read a record. Raises `Malformed` with the path of the fault, or `UnknownType`."""
    try:
        envelope = _envelope_decoder.decode(record)
    except _FAULTS as error:
        raise _unreadable_record(record, error) from error
    if envelope.schema_version > SCHEMA_VERSION:
        raise _from_the_future(f"schema version {envelope.schema_version}")
    if envelope.type != event_type(envelope.data):
        raise Malformed(
            f"the envelope says type {_quoted(envelope.type)}, its data says "
            f"{event_type(envelope.data)!r} - at `$.type`"
        )
    return envelope


def _unreadable_record(record: bytes, error: Exception) -> Unreadable:
    header = _read(_header_decoder, record)
    if header is not None and header.schema_version > SCHEMA_VERSION:
        return _from_the_future(f"schema version {header.schema_version}")
    return _unreadable(record, error, header.type if header is not None else None)


def _unreadable(record: bytes, error: Exception, type_: str | None) -> Unreadable:
    if type_ is not None and type_ not in EVENT_TYPES:
        return _from_the_future(f"event type {_quoted(type_)}")
    # The message says what was found and, at its end, where; a found value may be of any length.
    fault = str(error)
    if len(fault) > _MAX_QUOTED:
        fault = f"{fault[: _MAX_QUOTED // 2]}[...]{fault[-_MAX_QUOTED // 2 :]}"
    return Malformed(f"{fault} ({len(record)} bytes)")


def _from_the_future(what: str) -> UnknownType:
    return UnknownType(f"unknown {what}: a newer version wrote it; upgrade this one")


def _read(decoder: msgspec.json.Decoder[Any], record: bytes) -> Any:  # noqa: ANN401 - as decoded
    try:
        return decoder.decode(record)
    except _FAULTS:
        return None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}[...]")


__all__ = [
    "SCHEMA_VERSION",
    "Envelope",
    "Malformed",
    "UnknownType",
    "Unreadable",
    "decode_envelope",
    "decode_payload",
    "encode_envelope",
    "encode_payload",
    "encode_wire",
    "traceparent",
]
