"""A rollout's plan, from its question and what earlier questions left in memory."""

from __future__ import annotations

from typing import Final

from consumers.plan.recalled import notes, recalled
from consumers.planner_prompt import asked, planner_dialogue
from consumers.replies import free_text
from consumers.requests import planner_call, prompt
from mia_events.effects import ask
from mia_events.steps import Plan, Poison, Step, Task
from schemas.events import RolloutOpened, RolloutPlanned

_PLAN_CHARACTERS: Final = 4_000


def write_plan(task: Task) -> Plan:
    """Recall two successes and two failures, then let the planner write.

    A reply without a plan is said to be one: the executor goes on with the question alone.
    """
    opened = _opened(task)
    memories = yield from recalled(task, opened.generation)
    pieces = (*notes(task, memories), asked(task))
    messages = planner_dialogue(task, prompt(task, "plan"), pieces)
    reply = yield from ask(
        planner_call(task, messages, rollout=opened.number, step="plan", policy=opened.policy)
    )
    plan = free_text(reply, _PLAN_CHARACTERS)
    return Step(
        event=RolloutPlanned(
            plan=plan,
            memories=tuple(memory.id for memory in memories.items),
            policy=opened.policy,
            warnings=tuple(memory.id for memory in memories.items if memory.outcome == "failure"),
            problem="" if plan else "the planner's reply had no plan in it",
        )
    )


def _opened(task: Task) -> RolloutOpened:
    opened = task.last(RolloutOpened)
    if not isinstance(opened, RolloutOpened):
        raise Poison(f"rollout {task.stream} was never opened")
    return opened


__all__ = ["write_plan"]
