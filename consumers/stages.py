"""Every stage by the topic whose commands it handles. A process may run any of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from consumers import consolidate, execute, guard, judge, plan, reflect, tool_call
from consumers.train import stage as train
from mia_events import topics
from mia_events.steps import Stage

STAGES: Final[Mapping[str, Stage]] = {
    topics.PLAN: plan.STAGE,
    topics.EXECUTE: execute.STAGE,
    topics.TOOL_CALL: tool_call.STAGE,
    topics.REFLECT: reflect.STAGE,
    topics.JUDGE: {**judge.STAGE, **guard.STAGE},
    topics.CONSOLIDATE: consolidate.STAGE,
    topics.TRAIN: train.STAGE,
}

__all__ = ["STAGES"]
