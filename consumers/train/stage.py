"""The train stage by the events that it handles."""

from consumers.train.update import update
from mia_events.steps import Stage
from schemas.events import LearnerMerged

STAGE: Stage = {LearnerMerged: update}

__all__ = ["STAGE"]
