"""A trajectory as text for the roles that look back on it, fenced as data."""

from __future__ import annotations

from mia_events.quoting import clip, quote
from mia_events.trajectory import Trajectory, Turn
from schemas.events import (
    RolloutReplanned,
    ToolReturned,
    TurnAnswered,
    TurnRejected,
    TurnToolCalled,
)

_STEP_CHARACTERS = 700
TRACE_CHARACTERS = 6_000


def trace(trajectory: Trajectory, most: int = TRACE_CHARACTERS) -> str:
    """Every step in its order, in about `most` characters: the longer the record, the shorter
    each, so that none is lost.
    """
    limit = min(_STEP_CHARACTERS, most // max(len(trajectory.steps), 1))
    lines = [clip(_line(step), limit) for step in trajectory.steps]
    return quote("record", "\n".join(lines), 2 * TRACE_CHARACTERS)


def _line(step: Turn) -> str:
    match step:
        case TurnToolCalled():
            return f"turn {step.turn}: {step.tool} {bytes(step.arguments).decode()}"
        case ToolReturned():
            return f"turn {step.turn} found: {step.observation}"
        case TurnRejected():
            return f"turn {step.turn}: a malformed reply"
        case TurnAnswered(answer=None):
            return f"turn {step.turn}: no answer, the turns ran out"
        case TurnAnswered():
            return f"turn {step.turn} answered: {step.answer}"
        case RolloutReplanned():
            return f"additional plan: {step.plan}"


__all__ = ["TRACE_CHARACTERS", "trace"]
