"""All plans are in: which rollout runs first, and in which order the others stand in for it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

from consumers.plan import orders
from consumers.plan.preempt import fail_question
from consumers.requests import call, dialogue, prompt, question_of
from mia_events.effects import ReadRollouts, Wanted, ask
from mia_events.grammar import Unparsable, choice, choice_schema
from mia_events.quoting import quote
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import Trajectory, follow_all
from schemas.events import QuestionRouted

_PLAN_CHARACTERS = 1_500


def route(task: Task) -> Plan:
    """Let the router pick among several plans; it sees plans only, never what came of them."""
    rollouts = yield from ask(ReadRollouts(question=task.stream))
    live = [one for one in follow_all(rollouts.items) if one.status == "planned"]
    if not live:
        return fail_question(task, "no_rollout_left", "no rollout has a plan")
    first, method = yield from _pick(task, live)
    others = [one.number for one in live if one.number != first]
    return Step(
        event=QuestionRouted(order=(first, *others), method=method),
        orders=(orders.run(task.stream, first, "candidate"),),
    )


def _pick(task: Task, live: Sequence[Trajectory]) -> Generator[Wanted, Any, tuple[int, str]]:
    numbers = [one.number for one in live]
    if len(numbers) == 1:
        return numbers[0], "single"
    plans = [quote(f"plan {one.number}", one.plan, _PLAN_CHARACTERS) for one in live]
    messages = dialogue(prompt(task, "route"), quote("question", question_of(task).text), *plans)
    schema = choice_schema("plan", numbers)
    reply = yield from ask(
        call(task, "router", messages, step="route", schema=schema, tolerate=True)
    )
    if reply.problem:
        return numbers[0], "first: the router failed"
    try:
        return choice(reply.text, "plan", numbers), "router"
    except Unparsable:
        return numbers[0], "first: the router's reply was malformed"


__all__ = ["route"]
