"""The real stages, of which the executor ends its own process when a question tells it to.

A worker runs them when its configuration names this module as its `handlers`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from consumers.stages import STAGES as REAL
from mia_events import topics
from mia_events.steps import Handler, Plan, Stage, Task

__all__ = ["DEADLY", "STAGES"]

#: A question with these words kills whoever executes its rollouts.
DEADLY: Final = "[[die]]"
_EXIT: Final = 9


def _deadly(handler: Handler) -> Handler:
    def handle(task: Task) -> Plan:
        if task.question is not None and DEADLY in task.question.text:
            os._exit(_EXIT)
        return handler(task)

    return handle


STAGES: Final[Mapping[str, Stage]] = {
    **REAL,
    topics.EXECUTE: {
        command: _deadly(handler) for command, handler in REAL[topics.EXECUTE].items()
    },
}
