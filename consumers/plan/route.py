"""All plans are in: which rollout runs first, and in which order the others stand in for it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Final

from consumers.plan import orders
from consumers.plan.contrasts import SOUGHT, contrasts
from consumers.plan.preempt import fail_question
from consumers.plan.recalled import notes, recalled
from consumers.requests import call, dialogue, prompt, question_of
from mia_events.effects import ReadRollouts, Wanted, ask
from mia_events.grammar import Unparsable, choice, choice_schema
from mia_events.quoting import quote
from mia_events.steps import Plan, Poison, Step, Task
from mia_events.trajectory import Trajectory, follow_all
from schemas.events import QuestionOpened, QuestionRouted

_PLAN_CHARACTERS: Final = 1_500


def route(task: Task) -> Plan:
    """Let the router pick among several plans.

    It sees plans and what similar questions taught, never what came of these plans. Rollouts
    without a plan stand last.
    """
    rollouts = yield from ask(ReadRollouts(question=task.stream))
    live = [one for one in follow_all(rollouts.items) if one.status == "planned"]
    if not live:
        return fail_question(task, "no_rollout_left", "no rollout has a plan")
    live.sort(key=lambda one: (not one.plan, one.number))
    first, method = yield from _pick(task, [one for one in live if one.plan] or live[:1])
    others = [one.number for one in live if one.number != first]
    return Step(
        event=QuestionRouted(order=(first, *others), method=method),
        orders=(orders.run(task.stream, first, "candidate"),),
    )


def _pick(task: Task, live: Sequence[Trajectory]) -> Generator[Wanted, Any, tuple[int, str]]:
    numbers = [one.number for one in live]
    if len(numbers) == 1:
        return numbers[0], "single"
    found = yield from recalled(task, _generation(task), of_each=SOUGHT)
    memories = contrasts(found)
    plans = [quote(f"plan {one.number}", one.plan, _PLAN_CHARACTERS) for one in live]
    question = quote("question", question_of(task).text)
    told = [note.render(note.most) for note in notes(task, memories)]
    messages = dialogue(prompt(task, "route"), *told, question, *plans)
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


def _generation(task: Task) -> int:
    opened = task.last(QuestionOpened)
    if not isinstance(opened, QuestionOpened):
        raise Poison(f"question {task.stream} is routed but was never opened")
    return opened.generation


__all__ = ["route"]
