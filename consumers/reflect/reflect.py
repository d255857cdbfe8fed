"""The planner looks at what came of its plan: done, or one supplementary plan."""

from __future__ import annotations

from collections.abc import Generator
from functools import partial
from typing import Any, Final

from consumers.planner_prompt import Piece, asked, fixed, planner_dialogue
from consumers.replies import free_text
from consumers.requests import planner_call, prompt
from consumers.trace import TRACE_CHARACTERS, trace
from mia_events.effects import ModelReply, Wanted, ask
from mia_events.grammar import Unparsable, one_word
from mia_events.quoting import quote
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import Trajectory, follow
from schemas.events import RolloutFinished, RolloutProposed, RolloutReplanned

_PLAN_CHARACTERS: Final = 2_000
_TOLD_CHARACTERS: Final = 8_000


def reflect(task: Task) -> Plan:
    """Decide in one word whether to go on.

    A malformed decision, or a yes with an empty plan, ends the rollout as it stands and says so;
    one without turns or replans left ends without asking.
    """
    so_far, plan, problem = follow(task.history), "", ""
    if _may_go_on(task, so_far):
        plan, problem = yield from _more(task, so_far)
    if plan:
        return Step(event=RolloutReplanned(plan=plan))
    if so_far.role == "sibling":
        return Step(event=RolloutFinished(answer=so_far.answer, problem=problem))
    return Step(event=RolloutProposed(answer=so_far.answer, problem=problem))


def _may_go_on(task: Task, so_far: Trajectory) -> bool:
    return so_far.replans < task.run.manifest.max_replans and _turns_left(task, so_far) > 0


def _turns_left(task: Task, so_far: Trajectory) -> int:
    return task.run.manifest.max_turns - so_far.turns


def _more(task: Task, so_far: Trajectory) -> Generator[Wanted, Any, tuple[str, str]]:
    """The supplementary plan, if one is wanted; what was wrong with the replies."""
    reply = yield from _planner(task, so_far, "reflect")
    try:
        if one_word(reply.text, ("yes", "no")) == "no":
            return "", ""
    except Unparsable:
        return "", "the decision was malformed"
    plan = free_text((yield from _planner(task, so_far, "replan")), _PLAN_CHARACTERS)
    return plan, "" if plan else "more work was wanted, but not planned"


def _planner(task: Task, so_far: Trajectory, step: str) -> Generator[Wanted, Any, ModelReply]:
    pieces = (
        asked(task),
        Piece(render=partial(quote, "plan", so_far.plan), most=_TOLD_CHARACTERS, rank=2),
        Piece(render=partial(trace, so_far), most=TRACE_CHARACTERS, rank=2),
        fixed(f"Turns left: {_turns_left(task, so_far)}."),
    )
    messages = planner_dialogue(task, prompt(task, step), pieces)
    return (
        yield from ask(
            planner_call(task, messages, rollout=so_far.number, step=step, policy=so_far.policy)
        )
    )


__all__ = ["reflect"]
