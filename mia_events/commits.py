"""From a step to the rows that a commit applies: the life-cycle tables, resolved without IO."""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum
from typing import Any, Literal
from uuid import UUID

import msgspec

from mia_events import ids
from mia_events.lifecycle import TABLES, Kind, Rule, advance, shared_rule
from mia_events.steps import MemoryWrite, Order, PolicyWrite, Step, Task
from schemas import events as ev
from schemas.envelope import encode_payload
from schemas.events import Event, event_type


class Guard(IntEnum):
    """What must hold for an entry to be applied."""

    CLAIM = 0  #: the stream is at `version` and the claim is ours
    VERSION = 1  #: the stream is at `version`, whoever holds it (deadline, cancel)
    STATUS = 2  #: the stream is in one of `when`
    CREATE = 3  #: the stream does not exist


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One event to append to one stream, with the stream's next state."""

    guard: Guard
    stream: UUID
    kind: Kind
    event_id: UUID
    type: str
    body: bytes
    status: str
    topic: str | None = None
    outbox: str | None = None
    phase: int | None = None
    version: int = 0
    claim: int = 0
    attempt: int = 0
    when: tuple[str, ...] = ()
    parent: UUID | None = None
    cause: UUID | None = None
    number: int | None = None
    outcome: str | None = None
    due_at: datetime | None = None
    next_claim: int | None = None


class QuestionUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """Columns of a question that its own event sets; None leaves one as it is."""

    question: UUID
    fanned: int | None = None
    candidate: int | None = None
    official: int | None = None
    answer: str | None = None
    status: str | None = None
    reason: str | None = None
    grade: str | None = None


class Join(msgspec.Struct, frozen=True):
    """The id that a join's event will have, should this commit complete it."""

    owner: UUID
    name: str
    id: UUID


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What a guard decided on version `candidate`, new or serving: from here on `serves` does, if
    it is still `served` that does now.
    """

    candidate: str
    state: Literal["promoted", "held_back", "rolled_back"]
    served: str
    serves: str


class StepCommit(msgspec.Struct, frozen=True, kw_only=True):
    """A step, ready for the ledger: the first entry is its own stream's and guards the rest."""

    run_no: int
    entries: tuple[Entry, ...]
    question: QuestionUpdate | None = None
    joins: tuple[Join, ...] = ()
    memory: MemoryWrite | None = None
    generation: int | None = None  #: the memory generation that this step seals
    policy: PolicyWrite | None = None
    decision: Decision | None = None

    @property
    def alone(self) -> bool:
        """True when it writes rows that share the transaction of this step alone."""
        return self.memory is not None or self.policy is not None

    @property
    def touches(self) -> frozenset[UUID]:
        """The streams that must be locked before anything is applied."""
        streams = {entry.stream for entry in self.entries}
        parents = {e.parent for e in self.entries if e.phase is not None and e.parent is not None}
        return frozenset(streams | parents)


def step_commit(
    task: Task,
    step: Step,
    *,
    claim: int,
    attempt: int,
    guard: Guard = Guard.CLAIM,
    next_claim: int | None = None,
) -> StepCommit:
    """Resolve `step` of `task` against the life-cycle tables. Raises `NoTransition`."""
    own = _own_entry(task, step, guard=guard, claim=claim, attempt=attempt, next_claim=next_claim)
    orders = tuple(_order_entry(task, order) for order in step.orders)
    return StepCommit(
        run_no=task.run.run_no,
        entries=(own, *orders),
        question=_question_update(task, step.event),
        joins=_joins(task, own),
        memory=step.memory,
        generation=step.event.generation if isinstance(step.event, ev.LearnerSealed) else None,
        policy=step.policy,
        decision=_decision(task, step.event),
    )


def _own_entry(
    task: Task, step: Step, *, guard: Guard, claim: int, attempt: int, next_claim: int | None
) -> Entry:
    name = event_type(step.event)
    rule = advance(task.kind, TABLES[task.kind], task.status, name)
    return Entry(
        guard=guard,
        stream=task.stream,
        kind=task.kind,
        event_id=ids.event_id(task.stream, task.version + 1),
        type=name,
        body=encode_payload(step.event),
        status=rule.status,
        topic=rule.topic,
        outbox=rule.outbox,
        phase=rule.phase,
        version=task.version,
        claim=claim,
        attempt=attempt,
        parent=_question_id(task),
        cause=task.event_id,
        outcome=_outcome(step.event),
        next_claim=next_claim if rule.topic is not None else None,
    )


def _order_entry(task: Task, order: Order) -> Entry:
    name = event_type(order.event)
    table = TABLES[order.kind]
    rule: Rule = (
        shared_rule(order.kind, table, order.when, name)
        if order.when
        else advance(order.kind, table, None, name)
    )
    return Entry(
        guard=Guard.STATUS if order.when else Guard.CREATE,
        stream=order.stream,
        kind=order.kind,
        event_id=ids.order_id(order.stream, task.event_id, name),
        type=name,
        body=encode_payload(order.event),
        status=rule.status,
        topic=rule.topic,
        outbox=rule.outbox,
        phase=rule.phase,
        when=tuple(sorted(order.when)),
        parent=_question_id(task),
        cause=task.event_id,
        number=order.number,
        outcome=_outcome(order.event),
    )


def _question_id(task: Task) -> UUID | None:
    return task.question.id if task.question is not None else None


def _outcome(event: Event) -> str | None:
    match event:
        case ev.RolloutJudged():
            return event.grade
        case ev.RolloutFailed():
            return event.reason
        case _:
            return None


def _question_update(task: Task, event: Event) -> QuestionUpdate | None:
    if task.kind is not Kind.QUESTION:
        return None
    columns: dict[str, Any] = {}
    match event:
        case ev.QuestionFannedOut():
            columns = {"fanned": event.rollouts}
        case ev.QuestionRouted():
            columns = {"candidate": event.order[0]}
        case ev.QuestionRerouted():
            columns = {"candidate": event.candidate}
        case ev.QuestionAnswered():
            columns = {"official": event.rollout, "answer": event.answer, "status": "answered"}
        case ev.QuestionFailed():
            columns = {"status": "failed", "reason": event.reason}
        case ev.QuestionConsolidated():
            columns = {"grade": event.grade}
    return QuestionUpdate(question=task.stream, **columns)


def _decision(task: Task, event: Event) -> Decision | None:
    """The decision in a seal that follows an update, or the look at what serves where there was
    none; a guard that failed holds back.
    """
    if not isinstance(event, ev.LearnerSealed):
        return None
    match task.command:
        case ev.LearnerTrained() as trained:
            return Decision(
                candidate=trained.policy,
                state="promoted" if event.training == "promoted" else "held_back",
                served=trained.parent,
                serves=event.policy,
            )
        case ev.LearnerUntrained(policy=served) if event.policy != served:
            return Decision(
                candidate=served, state="rolled_back", served=served, serves=event.policy
            )
    return None


def _joins(task: Task, own: Entry) -> tuple[Join, ...]:
    question = _question_id(task)
    if question is None or (own.kind is Kind.ROLLOUT and own.phase is None):
        return ()
    names = ["planned", "graded"]
    names += [f"settling:{number}" for number in range(task.run.manifest.rollouts)]
    return tuple(Join(question, name, ids.join_id(question, name)) for name in names)


__all__ = ["Decision", "Entry", "Guard", "Join", "QuestionUpdate", "StepCommit", "step_commit"]
