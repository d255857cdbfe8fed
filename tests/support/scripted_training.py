"""The real stages, of which the trainer is scripted: its artifacts are a function of the job.

A worker runs them when its configuration names this module as its `handlers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from consumers.stages import STAGES as REAL
from mia_events import topics
from mia_events.effects import Train
from mia_events.steps import Handler, Plan, Stage, Task
from tests.support.fake_trainer import trained_by

__all__ = ["STAGES"]


def _scripted(handler: Handler) -> Handler:
    def handle(task: Task) -> Plan:
        plan: Plan = handler(task)
        reply: Any = None
        while True:
            try:
                wanted: Any = plan.send(reply)
            except StopIteration as finished:
                return finished.value  # type: ignore[no-any-return]
            reply = trained_by(wanted.job) if isinstance(wanted, Train) else (yield wanted)

    return handle


STAGES: Final[Mapping[str, Stage]] = {
    **REAL,
    topics.TRAIN: {command: _scripted(handler) for command, handler in REAL[topics.TRAIN].items()},
}
