"""The guard: a new planner version is tried on held-back anchors before it may serve."""

from consumers.guard.guard import guard, look_again
from consumers.guard.shadow import anchor_id
from mia_events.steps import Stage
from schemas.events import LearnerTrained, LearnerUntrained

STAGE: Stage = {LearnerTrained: guard, LearnerUntrained: look_again}

__all__ = ["STAGE", "anchor_id"]
