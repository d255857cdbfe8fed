"""The candidate came to an end: take its answer, or let the next in the router's order run."""

from __future__ import annotations

from collections.abc import Sequence

from consumers.plan import orders
from consumers.requests import command
from mia_events.effects import ReadRollouts, ask
from mia_events.steps import Order, Plan, Poison, Step, Task
from mia_events.trajectory import Trajectory, follow_all
from schemas.events import (
    QuestionAnswered,
    QuestionFailed,
    QuestionRerouted,
    QuestionRouted,
    QuestionSettling,
)


def settle(task: Task) -> Plan:
    """Commit the official answer before any rollout is judged, a reroute, or a stated failure."""
    settling = command(task, QuestionSettling)
    rollouts = yield from ask(ReadRollouts(question=task.stream))
    trajectories = follow_all(rollouts.items)
    for one in trajectories:
        if one.number == settling.candidate and one.status == "proposed" and one.answer is not None:
            return _answered(task, one, one.answer, trajectories)
    waiting = _waiting(task, trajectories)
    return _rerouted(task, waiting) if waiting else _failed(task, trajectories)


def _waiting(task: Task, trajectories: Sequence[Trajectory]) -> tuple[int, ...]:
    routed = task.last(QuestionRouted)
    if not isinstance(routed, QuestionRouted):
        raise Poison(f"question {task.stream} settles but was never routed")
    planned = {one.number for one in trajectories if one.status == "planned"}
    return tuple(number for number in routed.order if number in planned)


def _answered(
    task: Task, official: Trajectory, answer: str, trajectories: Sequence[Trajectory]
) -> Step:
    return Step(
        event=QuestionAnswered(
            answer=answer,
            rollout=official.number,
            memories=official.memories,
            sources=official.sources,
            policy=official.policy,
        ),
        orders=tuple(
            orders.run(task.stream, one.number, "sibling")
            if one.status == "planned"
            else orders.submit(task.stream, one.number)
            for one in trajectories
            if one.status in ("planned", "proposed")
        ),
    )


def _rerouted(task: Task, waiting: tuple[int, ...]) -> Step:
    candidate, *remaining = waiting
    return Step(
        event=QuestionRerouted(candidate=candidate, remaining=tuple(remaining)),
        orders=(orders.run(task.stream, candidate, "candidate"),),
    )


def _failed(task: Task, trajectories: Sequence[Trajectory]) -> Step:
    ends = [_end(task, one) for one in trajectories]
    return Step(
        event=QuestionFailed(
            reason="no_rollout_left", detail="every rollout ended without an answer"
        ),
        orders=tuple(order for order in ends if order is not None),
    )


def _end(task: Task, one: Trajectory) -> Order | None:
    if one.status == "proposed":
        return orders.submit(task.stream, one.number)
    if one.status in orders.OPEN:
        return orders.fail(task.stream, one.number, "no_rollout_left")
    return None


__all__ = ["settle"]
