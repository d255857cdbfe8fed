"""Drive a handler by hand: give it a task, answer what it yields, look at what it asked and did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import msgspec

from consumers import prompts
from mia_events import ids
from mia_events.effects import Rollouts, RolloutView, Together
from mia_events.lifecycle import TABLES, Kind, advance
from mia_events.steps import Handler, Manifest, ModelChoice, QuestionView, RunView, Step, Task
from schemas.envelope import encode_payload
from schemas.events import Event, Payload, event_type

RUN = UUID("00000000-0000-4000-8000-0000000000aa")
QUESTION = QuestionView(
    id=ids.question_id(RUN, "test", "1"),
    text="Who wrote Waverley?",
    source="test",
    row="1",
    pass_no=0,
    position=0,
    documents="d0c",
)
ROLES = {
    role: ModelChoice(model=f"{role}-model")
    for role in ("planner", "executor", "judge", "manager", "router", "embedder")
}
VECTOR = (1.0, 0.0)


def manifest(**changes: Any) -> Manifest:
    """A batch-mode manifest with the shipped prompts and one model per role."""
    values = {"mode": "batch", "prompts": prompts.load(), "roles": ROLES, **changes}
    return Manifest(**values)


def rollout(number: int = 0) -> UUID:
    """The stream of a rollout of `QUESTION`."""
    return ids.rollout_id(QUESTION.id, number)


def task(
    kind: Kind, history: Sequence[Payload], *, stream: UUID | None = None, **changes: Any
) -> Task:
    """A task whose status and version follow from its history; `changes` are the manifest's."""
    status: str | None = None
    for event in history:
        status = advance(kind, TABLES[kind], status, event_type(event)).status
    assert status is not None
    streams = {Kind.ROLLOUT: rollout(), Kind.QUESTION: QUESTION.id, Kind.LEARNER: RUN}
    stream = stream or streams[kind]
    return Task(
        run=RunView(run_no=1, id=RUN, name="test", scope="shelf", manifest=manifest(**changes)),
        question=None if kind is Kind.LEARNER else QUESTION,
        stream=stream,
        kind=kind,
        status=status,
        version=len(history),
        event_id=ids.event_id(stream, len(history)),
        history=tuple(history),
    )


def views(*histories: Sequence[Event]) -> Rollouts:
    """What `ReadRollouts` gives for these histories, numbered in their order."""
    return Rollouts(
        tuple(
            RolloutView(
                number=number,
                id=rollout(number),
                ended=False,
                history=tuple(msgspec.Raw(encode_payload(event)) for event in history),
            )
            for number, history in enumerate(histories)
        )
    )


@dataclass(frozen=True)
class Driven:
    """What a handler yielded, members of `Together` one by one, and its step."""

    asked: list[Any]
    step: Step

    @property
    def event(self) -> Any:
        """The event on the task's own stream."""
        return self.step.event

    def only(self, kind: type[Any]) -> Any:
        """The one effect of this kind that was asked for."""
        found = [effect for effect in self.asked if isinstance(effect, kind)]
        assert len(found) == 1, f"asked for {len(found)} of {kind.__name__}: {found}"
        return found[0]


def drive(handler: Handler, task: Task, *replies: Any) -> Driven:
    """Run a handler with these replies in order, one for each effect; all must be used."""
    left = list(replies)
    driven = drive_with(handler, task, lambda _: left.pop(0))
    assert left == [], f"never asked for: {left}"
    return driven


def drive_with(handler: Handler, task: Task, answer: Callable[[Any], Any]) -> Driven:
    """Run a handler, answering each effect by a function of it."""
    asked: list[Any] = []

    def perform(effect: Any) -> Any:
        asked.append(effect)
        return answer(effect)

    plan, reply = handler(task), None
    while True:
        try:
            wanted = plan.send(reply)
        except StopIteration as stop:
            return Driven(asked, stop.value)
        if isinstance(wanted, Together):
            reply = tuple(perform(effect) for effect in wanted.effects)
        else:
            reply = perform(wanted)


__all__ = [
    "QUESTION", "ROLES", "RUN", "VECTOR", "Driven", "drive", "drive_with", "manifest", "rollout",
    "task", "views",
]  # fmt: skip
