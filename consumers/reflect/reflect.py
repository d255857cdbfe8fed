"""The planner looks at what came of its plan: done, or one supplementary plan."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

from consumers.requests import dialogue, planner_call, prompt, question_of
from consumers.trace import trace
from mia_events.effects import Wanted, ask
from mia_events.grammar import Unparsable, after_thinking, one_word
from mia_events.quoting import clip, quote
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import Trajectory, follow
from schemas.events import RolloutFinished, RolloutProposed, RolloutReplanned

_PLAN_CHARACTERS = 2_000


def reflect(task: Task) -> Plan:
    """Decide in one word whether to go on.

    A malformed decision, or a yes with an empty plan, ends the rollout as it stands; one without
    turns or replans left ends without asking.
    """
    so_far = follow(task.history)
    if _may_go_on(task, so_far) and (yield from _wanted(task, so_far)):
        plan = yield from _supplement(task, so_far)
        if plan:
            return Step(event=RolloutReplanned(plan=plan))
    if so_far.role == "sibling":
        return Step(event=RolloutFinished(answer=so_far.answer))
    return Step(event=RolloutProposed(answer=so_far.answer))


def _may_go_on(task: Task, so_far: Trajectory) -> bool:
    manifest = task.run.manifest
    return so_far.replans < manifest.max_replans and so_far.turns < manifest.max_turns


def _wanted(task: Task, so_far: Trajectory) -> Generator[Wanted, Any, bool]:
    reply = yield from _planner(task, so_far, "reflect")
    try:
        return one_word(reply, ("yes", "no")) == "yes"
    except Unparsable:
        return False


def _supplement(task: Task, so_far: Trajectory) -> Generator[Wanted, Any, str]:
    reply = yield from _planner(task, so_far, "replan")
    return clip(after_thinking(reply), _PLAN_CHARACTERS)


def _planner(task: Task, so_far: Trajectory, step: str) -> Generator[Wanted, Any, str]:
    messages = dialogue(
        prompt(task, step),
        quote("question", question_of(task).text),
        quote("plan", so_far.plan, _PLAN_CHARACTERS),
        trace(so_far),
    )
    reply = yield from ask(
        planner_call(task, messages, rollout=so_far.number, step=step, policy=so_far.policy)
    )
    return reply.text


__all__ = ["reflect"]
