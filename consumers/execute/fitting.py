"""Fit a conversation into a model's context: the oldest tool results are shortened first.

A pure function of the conversation, so that a repeated turn asks the same. What is shortened is cut
to its floor at once: the turns after it leave it as it is, and the prefix cache holds again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from mia_events.effects import Message
from mia_events.quoting import clip, shorten
from mia_events.steps import Poison
from mia_events.tokens import most_tokens

_FLOOR_CHARACTERS: Final = 200


class Part(msgspec.Struct, frozen=True):
    """A message, and what it is: a result or a turn may be shortened, the rest may not."""

    message: Message
    kind: Literal["fixed", "result", "turn"] = "fixed"


def fitted(parts: Sequence[Part], budget: int) -> tuple[Message, ...]:
    """The messages, shortened until their estimate is at most `budget` tokens.

    Results go first, then the model's own turns, both from the oldest on. Raises `Poison` when that
    is not enough.
    """
    messages = [part.message for part in parts]
    over = sum(most_tokens(message.content) for message in messages) - budget
    for index in _in_order(parts):
        if over <= 0:
            break
        short = _shortened(parts[index])
        over -= most_tokens(messages[index].content) - most_tokens(short.content)
        messages[index] = short
    if over > 0:
        raise Poison(
            f"question and plan do not fit into the executor's context, by about {over} tokens: "
            "raise models.executor.context_tokens if its model has a longer one"
        )
    return tuple(messages)


def _in_order(parts: Sequence[Part]) -> list[int]:
    results = [index for index, part in enumerate(parts) if part.kind == "result"]
    return results + [index for index, part in enumerate(parts) if part.kind == "turn"]


def _shortened(part: Part) -> Message:
    cut = shorten if part.kind == "result" else clip
    return Message(part.message.role, cut(part.message.content, _FLOOR_CHARACTERS))


__all__ = ["Part", "fitted"]
