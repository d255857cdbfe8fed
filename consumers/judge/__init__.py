"""The judge stage: a final answer against the sealed label, or by review without one."""

from consumers.judge.judge import judge
from mia_events.steps import Stage
from schemas.events import RolloutFinished, RolloutSubmitted

STAGE: Stage = {RolloutSubmitted: judge, RolloutFinished: judge}

__all__ = ["STAGE"]
