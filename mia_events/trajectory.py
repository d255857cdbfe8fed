"""A rollout as its history tells it: where it stands, what it did, answered and rests on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeVar, cast, get_args
from uuid import UUID

import msgspec

from mia_events.effects import RolloutView
from mia_events.lifecycle import ROLLOUT, Kind, advance
from schemas import events as ev
from schemas.envelope import decode_payload
from schemas.events import Event, Payload, event_type

E = TypeVar("E", bound=Event)

#: Events of a phase in which a plan is carried out.
Turn = ev.TurnToolCalled | ev.TurnRejected | ev.TurnAnswered | ev.ToolReturned | ev.RolloutReplanned
# Event classes are final, and asking a struct's metaclass costs ten times as much as comparing
# types.
_TURNS = frozenset(get_args(Turn))


class Trajectory(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout has done so far.

    `turns` counts executor turns; `answer` is the newest answer given, `grade` the judge's;
    `first_answer` and `first_grade` are those of the first phase (None: none, or not graded apart);
    `warnings` are those of `memories` that told of failures.
    """

    number: int
    status: str
    plan: str = ""
    policy: str = "base"
    role: Literal["candidate", "sibling"] | None = None
    memories: tuple[UUID, ...] = ()
    warnings: tuple[UUID, ...] = ()
    sources: tuple[str, ...] = ()
    turns: int = 0
    replans: int = 0
    steps: tuple[Turn, ...] = ()
    answer: str | None = None
    first_answer: str | None = None
    grade: ev.Grade | None = None
    first_grade: ev.Grade | None = None


def follow(history: Sequence[Payload]) -> Trajectory:
    """Read a rollout's events, oldest first. Raises `NoTransition` for a history that cannot be."""
    opened = _first(history, ev.RolloutOpened)
    plan = _first(history, ev.RolloutPlanned) or ev.RolloutPlanned(plan="")
    chosen = _first(history, ev.RolloutChosen)
    judged = _first(history, ev.RolloutJudged)
    steps = tuple(event for event in history if type(event) in _TURNS)
    kinds = [type(step) for step in steps]
    replans = kinds.count(ev.RolloutReplanned)
    return Trajectory(
        number=opened.number if opened else 0,
        status=rollout_status(history),
        plan=plan.plan,
        policy=plan.policy,
        role=chosen.role if chosen else None,
        memories=plan.memories,
        warnings=plan.warnings,
        sources=_sources(steps),
        turns=len(kinds) - replans - kinds.count(ev.ToolReturned),
        replans=replans,
        steps=cast("tuple[Turn, ...]", steps),
        answer=_answer(reversed(steps)),
        first_answer=_answer(steps),
        grade=judged.grade if judged else None,
        first_grade=judged.first_grade if judged else None,
    )


def follow_all(views: Iterable[RolloutView]) -> tuple[Trajectory, ...]:
    """The trajectories of a question's rollouts, by number."""
    found = (follow([decode_payload(bytes(body)) for body in view.history]) for view in views)
    return tuple(sorted(found, key=lambda trajectory: trajectory.number))


def rollout_status(history: Iterable[Event]) -> str:
    """The status that a rollout's events lead to. Raises `NoTransition`."""
    status: str | None = None
    for event in history:
        status = advance(Kind.ROLLOUT, ROLLOUT, status, event_type(event)).status
    if status is None:
        raise ValueError("a rollout without an event has no status")
    return status


def _first(events: Sequence[Event], kind: type[E]) -> E | None:
    found: Any = next((event for event in events if type(event) is kind), None)
    return cast("E | None", found)


def _sources(steps: Sequence[Event]) -> tuple[str, ...]:
    found = (step.sources for step in steps if isinstance(step, ev.ToolReturned))
    return tuple(dict.fromkeys(source for sources in found for source in sources))


def _answer(steps: Iterable[Event]) -> str | None:
    given = (step.answer for step in steps if isinstance(step, ev.TurnAnswered))
    return next((answer for answer in given if answer is not None), None)


__all__ = ["Trajectory", "Turn", "follow", "follow_all", "rollout_status"]
