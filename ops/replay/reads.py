"""What a step reads of the ledger beside its own stream, as it stood when the step was taken."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

import msgspec

from mia_events.effects import Consolidated, ConsolidatedQuestion, Rollouts, RolloutView
from mia_events.lifecycle import ENDED, TABLES, Kind, advance
from schemas.envelope import decode_payload
from schemas.events import RolloutOpened
from storage.postgres.replay import RecordedEvent, Recording

__all__ = ["Erased", "batch", "rollouts", "status"]

_CONSOLIDATED = "question.consolidated"


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


def _body(event: RecordedEvent) -> bytes:
    if event.body is None:
        raise Erased
    return event.body
