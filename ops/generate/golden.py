"""Golden wire samples: one envelope per event type with every field set, written once."""

from __future__ import annotations

import types
from datetime import UTC, datetime
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec

from mia_events import ids
from schemas.envelope import Envelope, encode_envelope
from schemas.events import EVENT_TYPES, Payload

_AT: Final = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
_TRACE: Final = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_LEAVES: Final[dict[type, Any]] = {
    bool: True,
    int: 3,
    float: 0.25,
    UUID: ids.memory_id("golden", "sample"),
    msgspec.Raw: msgspec.Raw(b'{"query":"who wrote \\u201cUlysses\\u201d?","k":3}'),
}


def golden_sample(type_: str) -> bytes:
    """The wire bytes of an envelope of this type, with a value in every field and a last newline.

    Raises `KeyError` for an unknown type, `TypeError` for a field of a kind not met before.
    """
    run = ids.memory_id("golden", "run")
    stream = ids.question_id(run, "golden", type_)
    envelope = Envelope(
        id=ids.event_id(stream, 7),
        type=type_,
        run=run,
        stream=stream,
        seq=7,
        cause=ids.event_id(stream, 6),
        correlation=stream,
        occurred_at=_AT,
        trace=_TRACE,
        data=golden_payload(type_),
    )
    return encode_envelope(envelope) + b"\n"


def golden_payload(type_: str) -> Payload:
    """A payload of this type with a value that is no default in every field."""
    payload: Payload = _struct(EVENT_TYPES[type_])
    return payload


def _struct(cls: type[msgspec.Struct]) -> Any:  # noqa: ANN401 - an instance of `cls`
    hints = get_type_hints(cls)
    return cls(**{name: _value(hints[name], name) for name in cls.__struct_fields__})


def _value(hint: Any, name: str) -> Any:  # noqa: ANN401 - a value of the annotated type
    if hint in _LEAVES:
        return _LEAVES[hint]
    if hint is str:
        return f'The {name}: naïve “quotes”, "these" too,\nand 漢字 🙂'
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return _struct(hint)
    return _generic(get_origin(hint), get_args(hint), name)


def _generic(origin: Any, arguments: tuple[Any, ...], name: str) -> Any:  # noqa: ANN401 - as above
    if origin is Literal:
        return arguments[0]
    if origin in (Union, types.UnionType):
        return _value(arguments[0], name)
    if origin is tuple:
        return (_value(arguments[0], name),)
    if origin is dict:
        return {"example": _value(arguments[1], name)}
    raise TypeError(f"no sample value for {origin}, the type of {name}: add one here")


__all__ = ["golden_payload", "golden_sample"]
