"""Several handlers at once: in each round, what all of them wait for is performed together."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final, TypeVar

from mia_events.effect_codec import request_sha
from mia_events.effects import AnyEffect, Embed, ReadLabel, Recall, Together, Wanted

T = TypeVar("T")
#: Effects that only look: the same one asked for by several in a round is performed once.
_SHARED: Final = (Embed, Recall, ReadLabel)


def lockstep(plans: Sequence[Generator[Wanted, Any, T]]) -> Generator[Wanted, Any, tuple[T, ...]]:
    """What each plan returns, in their order; rounds follow from the replies alone."""
    done: dict[int, T] = {}
    wanted = {place: _next(plan, None, place, done) for place, plan in enumerate(plans)}
    while waiting := {place: want for place, want in wanted.items() if want is not None}:
        round_ = _Round(waiting)
        replies = yield Together(round_.effects)
        wanted = {
            place: _next(plans[place], round_.reply(place, replies), place, done)
            for place in waiting
        }
    return tuple(done[place] for place in range(len(plans)))


class _Round:
    """The effects of a round without repeats, and whose they are."""

    def __init__(self, waiting: dict[int, Wanted]) -> None:
        self._places: dict[int, tuple[int, ...]] = {}
        self._grouped = {place for place, want in waiting.items() if isinstance(want, Together)}
        self._known: dict[bytes, int] = {}
        found: list[AnyEffect] = []
        for place, want in waiting.items():
            members = want.effects if isinstance(want, Together) else (want,)
            self._places[place] = tuple(self._place(effect, found) for effect in members)
        self.effects = tuple(found)

    def reply(self, place: int, replies: Sequence[Any]) -> object:
        """What the plan at `place` waits for."""
        own = tuple(replies[index] for index in self._places[place])
        return own if place in self._grouped else own[0]

    def _place(self, effect: AnyEffect, found: list[AnyEffect]) -> int:
        index = len(found)
        if isinstance(effect, _SHARED):
            index = self._known.setdefault(request_sha(effect), index)
        if index == len(found):
            found.append(effect)
        return index


def _next(
    plan: Generator[Wanted, Any, T], reply: object, place: int, done: dict[int, T]
) -> Wanted | None:
    try:
        return plan.send(reply)
    except StopIteration as stop:
        done[place] = stop.value
        return None


__all__ = ["lockstep"]
