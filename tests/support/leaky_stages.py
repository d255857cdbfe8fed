"""The real stages, of which the judge writes the gold answer into its reason: a leak to be found.

A worker runs them when its configuration names this module as its `handlers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from consumers.stages import STAGES as REAL
from mia_events import topics
from mia_events.effects import ReadLabel
from mia_events.steps import Handler, Plan, Stage, Step, Task
from schemas.events import RolloutJudged

__all__ = ["STAGES"]


def _leaky(handler: Handler) -> Handler:
    def handle(task: Task) -> Plan:
        plan: Plan = handler(task)
        reply: Any = None
        gold: str | None = None
        while True:
            try:
                wanted: Any = plan.send(reply)
            except StopIteration as finished:
                return _told(finished.value, gold)
            reply = yield wanted
            if isinstance(wanted, ReadLabel):
                gold = reply.value

    return handle


def _told(step: Step, gold: str | None) -> Step:
    if not isinstance(step.event, RolloutJudged):
        return step
    event = msgspec.structs.replace(step.event, reason=f"it should have been {gold}")
    return msgspec.structs.replace(step, event=event)


STAGES: Final[Mapping[str, Stage]] = {
    **REAL,
    topics.JUDGE: {command: _leaky(handler) for command, handler in REAL[topics.JUDGE].items()},
}
