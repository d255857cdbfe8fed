"""The consolidate stage: what a question leaves for memory, and the merge of a batch."""

from consumers.consolidate.merge import merge
from consumers.consolidate.question import consolidate
from mia_events.steps import Stage
from schemas.events import LearnerBatchReady, QuestionGraded

STAGE: Stage = {QuestionGraded: consolidate, LearnerBatchReady: merge}

__all__ = ["STAGE"]
