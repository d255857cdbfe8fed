"""The one envelope every record travels in, and how records are read without trusting them."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from schemas.events import EVENT_TYPES, Event, Payload, event_type

SCHEMA_VERSION = 1


class Envelope(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A payload with its identity.

    `stream` is the unit of order and `seq` its place in it (from 1); `cause` is the event that led
    here, `correlation` the question, `trace` a W3C traceparent.
    """

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
    data: Payload


class Unreadable(ValueError):  # noqa: N818 - the two subclasses say what is wrong
    """A record that cannot be turned into an event."""


class Malformed(Unreadable):
    """The bytes are no event: dead-letter them."""


class UnknownType(Unreadable):
    """A well-formed record of a type this version does not know: park it."""


class _Header(msgspec.Struct):
    type: str
    data: msgspec.Raw


_payload_decoder = msgspec.json.Decoder(Payload)
_envelope_decoder = msgspec.json.Decoder(Envelope)
_encoder = msgspec.json.Encoder()


def encode_payload(payload: Event) -> bytes:
    """The bytes that the ledger stores, hashes and publishes for `payload`."""
    return _encoder.encode(payload)


def decode_payload(body: bytes) -> Payload:
    """Read a stored payload. Raises `Malformed` or `UnknownType`."""
    try:
        return _payload_decoder.decode(body)
    except msgspec.DecodeError as error:
        raise _classified(body, error, tag=_tag_of(body)) from error


def encode_envelope(envelope: Envelope) -> bytes:
    """The JSON bytes of a record."""
    return _encoder.encode(envelope)


def decode_envelope(record: bytes) -> Envelope:
    """Read a record. Raises `Malformed` with the path of the fault, or `UnknownType`."""
    try:
        envelope = _envelope_decoder.decode(record)
    except msgspec.DecodeError as error:
        raise _classified(record, error, tag=_type_of(record)) from error
    if envelope.type != event_type(envelope.data):
        message = f"envelope says type {envelope.type!r}, its data says {event_type(envelope.data)!r}"
        raise Malformed(message)
    return envelope


def _classified(record: bytes, error: Exception, *, tag: str | None) -> Unreadable:
    if tag is not None and tag not in EVENT_TYPES:
        return UnknownType(f"unknown event type {tag!r}: a newer version wrote it; upgrade this one")
    return Malformed(f"{error} ({len(record)} bytes)")


def _type_of(record: bytes) -> str | None:
    try:
        return msgspec.json.decode(record, type=_Header).type
    except msgspec.DecodeError:
        return None


def _tag_of(body: bytes) -> str | None:
    try:
        value: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return None
    tag = value.get("type") if isinstance(value, dict) else None
    return tag if isinstance(tag, str) else None


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
]
