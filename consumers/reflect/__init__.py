"""The reflect stage: is a finished phase good enough, or does it need one more plan?"""

from consumers.reflect.reflect import reflect
from mia_events.steps import Stage
from schemas.events import TurnAnswered

STAGE: Stage = {TurnAnswered: reflect}

__all__ = ["STAGE"]
