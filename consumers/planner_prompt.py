"""What the planner is asked with, fitted into a training row before it is sampled.

A row holds a prompt and its reply. What does not fit is never cut afterwards: the pieces of a
prompt are made shorter first, those that matter least before the others. A pure function of the
task, so that a repeated step asks the same. Runs that do not train ask in full.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from consumers.requests import choice_of, dialogue, question_of
from mia_events.effects import Message
from mia_events.quoting import quote
from mia_events.steps import Poison, Task
from mia_events.tokens import bound_tokens, prose_tokens

#: The least that is left of a piece which may not go.
_FLOOR_CHARACTERS: Final = 40
_QUESTION_CHARACTERS: Final = 8_000


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a prompt: `render(limit)` gives it within about `limit` characters, `most` is its
    full length. The highest `rank` is shortened first; what has rank 1 stays, if ever so short.
    """

    render: Callable[[int], str]
    most: int
    rank: int


def fixed(text: str) -> Piece:
    """A piece that is as it is."""
    return Piece(render=lambda _: text, most=0, rank=0)


def asked(task: Task) -> Piece:
    """The question: what is shortened last."""
    text = question_of(task).text
    return Piece(render=partial(quote, "question", text), most=_QUESTION_CHARACTERS, rank=1)


def planner_dialogue(task: Task, system: str, pieces: Sequence[Piece]) -> tuple[Message, ...]:
    """The messages of a planner's turn. Raises `Poison` when a row is too short for any of it."""
    limits = [piece.most for piece in pieces]
    if not task.run.manifest.train:
        return _messages(system, pieces, limits)
    budget = task.run.manifest.hyper.row_tokens - choice_of(task, "planner").max_tokens
    for rank in sorted({piece.rank for piece in pieces if piece.rank}, reverse=True):
        if _tokens(_messages(system, pieces, limits)) <= budget:
            break
        limits = _shortened(system, pieces, limits, rank, budget)
    messages = _messages(system, pieces, limits)
    over = _tokens(messages) - budget
    if over > 0:
        raise Poison(
            f"question and instructions do not fit into a training row, by about {over} tokens: "
            "make a run with more --row-tokens"
        )
    return messages


def _shortened(
    system: str, pieces: Sequence[Piece], limits: Sequence[int], rank: int, budget: int
) -> list[int]:
    """The same limits, but for the pieces of a rank: the longest that fits, else their floor."""
    low = _FLOOR_CHARACTERS if rank == 1 else 0
    high = max(limit for piece, limit in zip(pieces, limits, strict=True) if piece.rank == rank)
    while low < high:
        middle = (low + high + 1) // 2
        if _tokens(_messages(system, pieces, _capped(pieces, limits, rank, middle))) <= budget:
            low = middle
        else:
            high = middle - 1
    return _capped(pieces, limits, rank, low)


def _capped(pieces: Sequence[Piece], limits: Sequence[int], rank: int, cap: int) -> list[int]:
    return [
        min(limit, cap) if piece.rank == rank else limit
        for piece, limit in zip(pieces, limits, strict=True)
    ]


def _messages(system: str, pieces: Sequence[Piece], limits: Sequence[int]) -> tuple[Message, ...]:
    """Pieces that have nothing left are left out."""
    told = [
        piece.render(limit)
        for piece, limit in zip(pieces, limits, strict=True)
        if limit or not piece.rank
    ]
    return dialogue(system, *told)


def _tokens(messages: Sequence[Message]) -> int:
    system, user = messages
    return prose_tokens(system.content) + bound_tokens(user.content)


__all__ = ["Piece", "asked", "fixed", "planner_dialogue"]
