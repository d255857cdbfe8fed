"""The tool-call stage: carry out what an executor turn asked for."""

from consumers.tool_call.use import use_tool
from mia_events.steps import Stage
from schemas.events import TurnToolCalled

STAGE: Stage = {TurnToolCalled: use_tool}

__all__ = ["STAGE"]
