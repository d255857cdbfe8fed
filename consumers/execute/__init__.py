"""The execute stage: one executor turn per command."""

from consumers.execute.turn import take_turn
from mia_events.steps import Stage
from schemas.events import RolloutChosen, RolloutReplanned, ToolReturned, TurnRejected

STAGE: Stage = {
    RolloutChosen: take_turn,
    TurnRejected: take_turn,
    ToolReturned: take_turn,
    RolloutReplanned: take_turn,
}

__all__ = ["STAGE"]
