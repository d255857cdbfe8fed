"""The guard: a new planner version is tried on held-back anchors before it may serve."""

from consumers.guard.guard import guard
from consumers.guard.shadow import anchor_id
from mia_events.steps import Stage
from schemas.events import LearnerTrained

STAGE: Stage = {LearnerTrained: guard}

__all__ = ["STAGE", "anchor_id"]
