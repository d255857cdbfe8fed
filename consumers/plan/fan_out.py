"""A question that may start: create its rollouts."""

from __future__ import annotations

from consumers.requests import command
from mia_events import ids
from mia_events.lifecycle import Kind
from mia_events.steps import Order, Plan, Step, Task
from schemas.events import QuestionFannedOut, QuestionOpened, RolloutOpened


def fan_out(task: Task) -> Plan:
    """Start G rollouts, all on the question's memory generation and planner version."""
    yield from ()
    opened = command(task, QuestionOpened)
    rollouts = task.run.manifest.rollouts
    return Step(
        event=QuestionFannedOut(rollouts=rollouts),
        orders=tuple(_open(task, opened, number) for number in range(rollouts)),
    )


def _open(task: Task, opened: QuestionOpened, number: int) -> Order:
    return Order(
        kind=Kind.ROLLOUT,
        stream=ids.rollout_id(task.stream, number),
        event=RolloutOpened(number=number, generation=opened.generation, policy=opened.policy),
        number=number,
    )


__all__ = ["fan_out"]
