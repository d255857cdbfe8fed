"""What a step reads of the ledger beside its own stream, as it stood when the step was taken."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from uuid import UUID

import msgspec

from mia_events.effects import (
    Consolidated,
    ConsolidatedQuestion,
    Groups,
    GroupView,
    Rollouts,
    RolloutTurns,
    RolloutView,
)
from mia_events.learning.groups import PLANNED_ON, RecordedCall, rollout_turns
from mia_events.lifecycle import ENDED, TABLES, Kind, advance
from schemas.envelope import decode_payload
from schemas.events import RolloutOpened
from storage.postgres.replay import RecordedEvent, Recording

__all__ = ["Erased", "batch", "groups", "rollouts", "status"]

_CONSOLIDATED = "question.consolidated"
_CALL = "call"


class Erased(Exception):
    """A payload that a step read is not there any more."""


def status(kind: Kind, events: tuple[RecordedEvent, ...]) -> str | None:
    """Return the status that a stream's events lead to; None for no event."""
    reached: str | None = None
    for event in events:
        reached = advance(kind, TABLES[kind], reached, event.type).status
    return reached


def rollouts(
    recording: Recording, question: UUID, before: datetime, bodies: Mapping[UUID, bytes]
) -> Rollouts:
    """Return a question's rollouts with what they had done before a moment.

    `bodies` replaces the payloads of some events.
    """
    views = []
    for events in recording.streams.values():
        if events[0].kind is not Kind.ROLLOUT or events[0].question != question:
            continue
        seen = tuple(event for event in events if event.at < before)
        if seen:
            views.append(_view(seen, bodies))
    return Rollouts(tuple(sorted(views, key=lambda view: view.number)))


def _view(events: tuple[RecordedEvent, ...], bodies: Mapping[UUID, bytes]) -> RolloutView:
    history = tuple(bodies.get(event.id) or _body(event) for event in events)
    opened = decode_payload(history[0])
    return RolloutView(
        number=opened.number if isinstance(opened, RolloutOpened) else 0,
        id=events[0].stream,
        ended=status(Kind.ROLLOUT, events) == ENDED,
        history=tuple(msgspec.Raw(body) for body in history),
    )


def batch(recording: Recording, number: int) -> Consolidated:
    """Return what a batch's questions left for memory, by position."""
    found = []
    for question, view in recording.questions.items():
        if recording.batches[question] != number:
            continue
        last = [e for e in recording.streams[question] if e.type == _CONSOLIDATED]
        if last:
            body = msgspec.Raw(_body(last[-1]))
            found.append(ConsolidatedQuestion(question=question, position=view.position, body=body))
    return Consolidated(tuple(sorted(found, key=lambda item: item.position)))


def groups(recording: Recording, questions: Sequence[UUID], bodies: Mapping[UUID, bytes]) -> Groups:
    """Return ended groups with the planner's turns. `bodies` as in `rollouts`."""
    found: dict[UUID, list[RolloutTurns]] = {question: [] for question in questions}
    for events in recording.streams.values():
        question = events[0].question
        if events[0].kind is Kind.ROLLOUT and question in found:
            found[question].append(_turns(recording, events, bodies))
    return Groups(
        tuple(
            GroupView(
                question=question,
                position=recording.questions[question].position,
                rollouts=tuple(sorted(found[question], key=lambda one: one.number)),
            )
            for question in questions
        )
    )


def _turns(
    recording: Recording, events: tuple[RecordedEvent, ...], bodies: Mapping[UUID, bytes]
) -> RolloutTurns:
    view = _view(events, bodies)
    calls = [
        RecordedCall(topic=event.topic or "", event_id=event.id, ordinal=ordinal, result=result)
        for event in events
        if event.topic in PLANNED_ON
        for ordinal, result in _calls(recording, event.id)
    ]
    return rollout_turns(view.number, view.id, [bytes(body) for body in view.history], calls)


def _calls(recording: Recording, command: UUID) -> Iterator[tuple[int, bytes]]:
    for ordinal, effect in sorted(recording.effects.get(command, {}).items()):
        if effect.kind == _CALL:
            if effect.result is None:
                raise Erased
            yield ordinal, effect.result


def _body(event: RecordedEvent) -> bytes:
    if event.body is None:
        raise Erased
    return event.body
