"""Several handlers at once: in each round, what all of them wait for is performed together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, TypeVar

from mia_events.effect_codec import request_sha
from mia_events.effects import AnyEffect, Together, Wanted

T = TypeVar("T")


def lockstep(plans: Sequence[Generator[Wanted, Any, T]]) -> Generator[Wanted, Any, tuple[T, ...]]:
    """What each plan returns, in their order; rounds follow from the replies alone.

    Equal requests are one effect, whoever makes them and when: plans that have done the same so far
    go on alike, so that a comparison shows what differs and no chance.
    """
    done: dict[int, T] = {}
    known: dict[bytes, Any] = {}
    wanted = {place: _next(plan, None, place, done) for place, plan in enumerate(plans)}
    while waiting := {place: want for place, want in wanted.items() if want is not None}:
        new = {sha: one for want in waiting.values() for sha, one in _members(want)}
        new = {sha: one for sha, one in new.items() if sha not in known}
        if new:
            replies = yield Together(tuple(new.values()))
            known.update(zip(new, replies, strict=True))
        wanted = {
            place: _next(plans[place], _reply(want, known), place, done)
            for place, want in waiting.items()
        }
    return tuple(done[place] for place in range(len(plans)))


def _members(want: Wanted) -> list[tuple[bytes, AnyEffect]]:
    effects = want.effects if isinstance(want, Together) else (want,)
    return [(request_sha(effect), effect) for effect in effects]


def _reply(want: Wanted, known: dict[bytes, Any]) -> object:
    replies = tuple(known[sha] for sha, _ in _members(want))
    return replies if isinstance(want, Together) else replies[0]


def _next(
    plan: Generator[Wanted, Any, T], reply: object, place: int, done: dict[int, T]
) -> Wanted | None:
    try:
        return plan.send(reply)
    except StopIteration as stop:
        done[place] = stop.value
        return None


__all__ = ["lockstep"]
