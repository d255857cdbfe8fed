"""Where events come from: the id and the cause that an event's place in the history derives."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from mia_events import ids
from mia_events.lifecycle import Kind
from ops.audit.book import Entry
from schemas import events as ev

#: Only another stream's step appends these.
ORDERED: Final = frozenset({"rollout.opened", "rollout.chosen", "rollout.submitted"})
#: Their own stream's step, or another's.
EITHER: Final = frozenset({"rollout.failed"})
#: Nobody's step: an operator or an intake appends them, so they have no claim and no cause.
_OUTSIDE: Final = frozenset({"question.asked", "learner.started", "label.received"})
#: A deadline, a cancel or an operator may append these over the head of whoever works.
PREEMPTING: Final = frozenset({"question.failed", "rollout.failed", "question.consolidated"})


class Origin(msgspec.Struct, frozen=True):
    """Whose an event is: its own stream's step (`own`), another one's (`ordered`), or neither's.

    `id` is what it should be called (None: its payload is needed to tell, and gone).
    """

    id: UUID | None
    own: bool = False
    ordered: bool = False


def origin(entry: Entry) -> Origin:
    """Where an event comes from, by its type and, where both are possible, its id."""
    row = entry.row
    own = ids.event_id(row.stream, row.seq)
    if row.type in ORDERED or (row.type in EITHER and row.id != own):
        ordered = ids.order_id(row.stream, row.cause, row.type) if row.cause is not None else None
        return Origin(ordered, ordered=True)
    if row.type in _OUTSIDE or row.kind == Kind.FACT:
        return Origin(own)
    if row.type in _BY_DATABASE:
        return Origin(_named(entry))
    return Origin(own, own=row.kind != Kind.RUN)


def _named(entry: Entry) -> UUID | None:
    stream, payload = entry.row.stream, entry.payload
    match entry.row.type:
        case "question.settling":
            if not isinstance(payload, ev.QuestionSettling):
                return None
            return ids.join_id(stream, f"settling:{payload.candidate}")
        case "learner.batch_ready":
            if not isinstance(payload, ev.LearnerBatchReady):
                return None
            return ids.named_id(stream, f"batch_ready:{payload.number}")
        case "question.opened" | "question.planned" | "question.graded" as name:
            return ids.join_id(stream, name.partition(".")[2])
        case name:
            return ids.named_id(stream, name.partition(".")[2])


_BY_DATABASE: Final = frozenset(
    {
        "question.opened",
        "question.planned",
        "question.settling",
        "question.graded",
        "batch.started",
        "batch.opened",
        "batch.closed",
        "batch.ended",
        "learner.batch_ready",
        "run.finished",
    }
)

__all__ = ["EITHER", "ORDERED", "PREEMPTING", "Origin", "origin"]
