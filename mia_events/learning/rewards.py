"""What a rollout is rewarded for, part by part.

Source: equation 4 of the MIA paper (arXiv 2604.04503) with a label; without one, the formula of its
published code. What could not be judged has no reward: it is excluded, never counted as 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Annotated, Final, Literal

import msgspec

from mia_events.effects import PlannerTurn, RolloutTurns
from mia_events.grammar import Unparsable, after_thinking, one_word
from mia_events.trajectory import Trajectory, Turn, follow
from schemas.envelope import decode_payload
from schemas.events import Grade, RolloutJudged, RolloutReplanned, TurnToolCalled

Share = Annotated[float, msgspec.Meta(ge=0.0)]
#: The parts of a reward by name.
PARTS: Final = ("final", "first", "format", "decision", "tool")


class Parts(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout did well, each in [0, 1]; None where nobody could tell.

    `final` and `first` are the grades of the last answer and of that before a supplementary plan.
    `format`: every planner turn keeps to its grammar. `decision`: to go on where the first answer
    was wrong, and to stop where it was right. `tool`: the share of phases that used a tool.
    """

    final: float | None
    first: float | None
    format: float
    decision: float | None
    tool: float


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each part of a reward counts for."""

    final: Share = 0.7
    first: Share = 0.2
    format: Share = 0.05
    decision: Share = 0.05
    tool: Share = 0.0


#: The published weights by the kind of judge.
WEIGHTS: Final[Mapping[str, Weights]] = {
    "supervised": Weights(),
    "unsupervised": Weights(final=0.9, first=0.0, format=0.1, decision=0.0),
}


def weights_of(judge: str, chosen: Weights | None) -> Weights:
    """The weights that were chosen, else the published ones. Raises `ValueError` without a judge
    that grades.
    """
    if chosen is not None:
        return chosen
    if judge not in WEIGHTS:
        raise ValueError(f"there is no reward without a judge: judge {judge!r} grades nothing")
    return WEIGHTS[judge]


def parts_of(rollout: RolloutTurns) -> Parts:
    """The parts of an ended rollout's reward.

    A rollout that was never asked whether to go on has decided to stop. One whose planner failed is
    no sample of what the planner does: it counts as unjudged.
    """
    seen = follow([decode_payload(bytes(body)) for body in rollout.history])
    failed = not rollout.turns or any(turn.reply.problem for turn in rollout.turns)
    final = None if failed else _right(seen.grade)
    first = _right(seen.first_grade) if seen.replans and final is not None else final
    return Parts(
        final=final,
        first=first,
        format=float(all(_well_formed(turn) for turn in rollout.turns)),
        decision=None if first is None else _decided(rollout.turns, right=first == 1.0),
        tool=_tool(seen),
    )


def reviewed(rollout: RolloutTurns) -> bool:
    """Whether a rollout's grade rests on reviews of its answer, not on a label."""
    end = decode_payload(bytes(rollout.history[-1]))
    return isinstance(end, RolloutJudged) and end.basis == "review"


def reward(parts: Parts, weights: Weights) -> float | None:
    """The weighted sum, or None when a part that counts is unknown or the rollout is unjudged."""
    if parts.final is None:
        return None
    weighed = [(getattr(weights, name), getattr(parts, name)) for name in PARTS]
    if any(weight and part is None for weight, part in weighed):
        return None
    return fsum(weight * part for weight, part in weighed if weight)


def decision(turn: PlannerTurn) -> Literal["yes", "no"] | None:
    """What a reflection said: one word after its thinking, or nothing that counts."""
    try:
        return "yes" if one_word(turn.reply.text, ("yes", "no")) == "yes" else "no"
    except Unparsable:
        return None


def _right(grade: Grade | None) -> float | None:
    return None if grade in (None, "unjudged") else float(grade == "correct")


def _decided(turns: Sequence[PlannerTurn], *, right: bool) -> float:
    asked = [turn for turn in turns if turn.step == "reflect"]
    said = decision(asked[0]) if asked else "no"
    return float(said == ("no" if right else "yes"))


def _well_formed(turn: PlannerTurn) -> bool:
    text = turn.reply.text
    if text.count("<think>") != text.count("</think>"):
        return False
    return decision(turn) is not None if turn.step == "reflect" else bool(after_thinking(text))


def _tool(seen: Trajectory) -> float:
    phases: list[list[Turn]] = [[]]
    for step in seen.steps:
        if isinstance(step, RolloutReplanned):
            phases.append([])
        else:
            phases[-1].append(step)
    used = [any(isinstance(step, TurnToolCalled) for step in phase) for phase in phases]
    return sum(used) / len(used)


__all__ = [
    "PARTS",
    "WEIGHTS",
    "Parts",
    "Weights",
    "decision",
    "parts_of",
    "reviewed",
    "reward",
    "weights_of",
]
