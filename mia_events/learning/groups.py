"""What the ledger holds of an ended group, as a trainer reads it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final, Literal
from uuid import UUID

import msgspec

from mia_events import topics
from mia_events.effects import ModelReply, PlannerTurn, RolloutTurns

#: Grades that a group can be compared by: "unjudged" is none of them.
GRADED: Final = ("correct", "incorrect", "not_attempted")
#: Topics whose commands a rollout's planner answers.
PLANNED_ON: Final = (topics.PLAN, topics.REFLECT)

_replies: Final = msgspec.json.Decoder(ModelReply)


class RecordedCall(msgspec.Struct, frozen=True, kw_only=True):
    """A recorded call of a rollout's command on `topic`; `result` is the reply's JSON."""

    topic: str
    event_id: UUID
    ordinal: int
    result: bytes


def rollout_turns(
    number: int, rollout: UUID, history: Sequence[bytes], calls: Iterable[RecordedCall]
) -> RolloutTurns:
    """A rollout from its events' payloads and the planner's calls, both in their order."""
    return RolloutTurns(
        number=number, id=rollout, history=tuple(map(msgspec.Raw, history)), turns=_named(calls)
    )


def _named(calls: Iterable[RecordedCall]) -> tuple[PlannerTurn, ...]:
    """On its topic a rollout's planner writes one plan, or decides first and then plans again."""
    turns: list[PlannerTurn] = []
    for call in calls:
        again = bool(turns) and turns[-1].event_id == call.event_id
        step: Literal["plan", "reflect", "replan"] = "replan" if again else "reflect"
        turns.append(
            PlannerTurn(
                step="plan" if call.topic == topics.PLAN else step,
                event_id=call.event_id,
                ordinal=call.ordinal,
                reply=_replies.decode(call.result),
            )
        )
    return tuple(turns)


__all__ = ["GRADED", "PLANNED_ON", "RecordedCall", "rollout_turns"]
