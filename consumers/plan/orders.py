"""What a question may order its rollouts to do, each guarded by the status that allows it."""

from __future__ import annotations

from typing import Final, Literal
from uuid import UUID

from mia_events import ids
from mia_events.lifecycle import ROLLOUT, Kind
from mia_events.steps import Order
from schemas.events import Event, FailureReason, RolloutChosen, RolloutFailed, RolloutSubmitted

OPEN: Final = frozenset(
    status for status, event in ROLLOUT if event == "rollout.failed" and status is not None
)


def run(question: UUID, number: int, role: Literal["candidate", "sibling"]) -> Order:
    """Carry out the plan of a planned rollout."""
    return _order(question, number, RolloutChosen(role=role), frozenset({"planned"}))


def submit(question: UUID, number: int) -> Order:
    """Let a proposed rollout be judged."""
    return _order(question, number, RolloutSubmitted(), frozenset({"proposed"}))


def fail(question: UUID, number: int, reason: FailureReason, detail: str = "") -> Order:
    """End a rollout, wherever it stands."""
    return _order(question, number, RolloutFailed(reason=reason, detail=detail), OPEN)


def _order(question: UUID, number: int, event: Event, when: frozenset[str]) -> Order:
    return Order(
        kind=Kind.ROLLOUT,
        stream=ids.rollout_id(question, number),
        event=event,
        when=when,
    )


__all__ = ["OPEN", "fail", "run", "submit"]
