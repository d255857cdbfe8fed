"""How effects are written down: a request by its hash, a reply by its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final, TypeAlias

import msgspec

from mia_events.effects import (
    AnyEffect,
    Call,
    Candidates,
    ChooseGroups,
    Consolidated,
    Embed,
    Groups,
    Label,
    Memories,
    ModelReply,
    ReadBatch,
    ReadGroups,
    ReadLabel,
    ReadRollouts,
    Recall,
    Rollouts,
    ToolResult,
    Train,
    UseTool,
    Vectors,
)
from mia_events.learning.job import Trained

Reply: TypeAlias = (
    ModelReply
    | Vectors
    | ToolResult
    | Memories
    | Label
    | Rollouts
    | Consolidated
    | Candidates
    | Groups
    | Trained
)
#: What each effect is answered with.
REPLIES: Final[Mapping[type[Any], type[Any]]] = {
    Call: ModelReply,
    Embed: Vectors,
    UseTool: ToolResult,
    Recall: Memories,
    ReadLabel: Label,
    ReadRollouts: Rollouts,
    ReadBatch: Consolidated,
    ChooseGroups: Candidates,
    ReadGroups: Groups,
    Train: Trained,
}

_canonical: Final = msgspec.json.Encoder(order="sorted")
_encoder: Final = msgspec.json.Encoder()
_decoders: Final = {effect: msgspec.json.Decoder(reply) for effect, reply in REPLIES.items()}


def effect_kind(effect: AnyEffect) -> str:
    """The effect's name on the wire, such as ``call``."""
    return str(effect.__struct_config__.tag)


def request_sha(effect: AnyEffect) -> bytes:
    """SHA-256 of the request's JSON with sorted keys.

    A recall's scope is left out, so that runs over equal memories ask equal questions.
    """
    if isinstance(effect, Recall):
        effect = msgspec.structs.replace(effect, scope="")
    return sha256(_canonical.encode(effect)).digest()


def encode_reply(effect: AnyEffect, reply: object) -> bytes:
    """The bytes to record for `reply`. Raises `TypeError` when `effect` is not answered with it."""
    expected = REPLIES[type(effect)]
    if type(reply) is not expected:
        message = (
            f"{effect_kind(effect)} must be answered with {expected.__name__}, "
            f"got {type(reply).__name__}"
        )
        raise TypeError(message)
    return _encoder.encode(reply)


def decode_reply(effect: AnyEffect, result: bytes) -> Reply:
    """The reply that was recorded for `effect`. Raises `msgspec.DecodeError` when it is none."""
    reply: Reply = _decoders[type(effect)].decode(result)
    return reply


__all__ = ["REPLIES", "Reply", "decode_reply", "effect_kind", "encode_reply", "request_sha"]
