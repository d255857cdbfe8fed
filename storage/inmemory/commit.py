"""How a group of steps is applied to the rows: guards, effects, entries, counters, joins, ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Final
from uuid import UUID

import msgspec

from mia_events.commits import Entry, Guard, QuestionUpdate, StepCommit
from mia_events.lifecycle import ENDED, JOINS, QUESTION, Kind, Phase
from mia_events.lifecycle import advance as transition
from schemas import events as ev
from schemas.envelope import encode_payload
from storage.inmemory.advance import advance_run
from storage.inmemory.memory import write_memories
from storage.inmemory.policies import refuse_used, seal, write_policy
from storage.inmemory.state import (
    ActiveRow,
    Database,
    Head,
    Lease,
    NewEvent,
    OutboxRow,
    QuestionRow,
    RolloutRow,
    emitted,
)
from storage.ports import CommitResult, EffectRow, Emitted, Outcome, PendingCommit

#: How long a fact that was just committed is left to the worker that publishes it.
OUTBOX_GRACE: Final = timedelta(seconds=2)
_JOINS: Final = {join.status: join for join in JOINS}


def commit_units(db: Database, units: Sequence[PendingCommit], lease_s: float) -> CommitResult:
    """Apply many units as one transaction. Raises `ValueError` when two touch one stream."""
    _refuse_overlap(units)
    held = [unit.step is None or _guard_holds(db, unit.step.entries[0]) for unit in units]
    for unit, mine in zip(units, held, strict=True):
        if mine and unit.step is not None and unit.step.policy is not None:
            refuse_used(db, unit.step.policy, run_no=unit.step.run_no)
    outcomes = tuple(
        _record(db, unit.effects) if mine else "lost"
        for unit, mine in zip(units, held, strict=True)
    )
    steps = [
        unit.step
        for unit, outcome in zip(units, outcomes, strict=True)
        if unit.step is not None and outcome == "committed"
    ]
    return CommitResult(outcomes, tuple(_apply(db, steps, lease_s)))


def _refuse_overlap(units: Iterable[PendingCommit]) -> None:
    seen: set[UUID] = set()
    for unit in units:
        own = {entry.stream for entry in unit.step.entries} if unit.step is not None else set()
        if seen & own:
            message = f"two units of one commit touch stream {min(seen & own)}: commit one later"
            raise ValueError(message)
        seen |= own


def _guard_holds(db: Database, entry: Entry) -> bool:
    row = db.active.get(entry.stream)
    if row is None or row.head.version != entry.version:
        return False
    return entry.guard is Guard.VERSION or row.claim == entry.claim


def _record(db: Database, effects: Iterable[EffectRow]) -> Outcome:
    """First writer wins; the same result written again is no conflict."""
    outcome: Outcome = "committed"
    for effect in effects:
        first = db.effects.setdefault((effect.event_id, effect.ordinal), effect)
        if (first.result, first.sealed) != (effect.result, effect.sealed):
            outcome = "conflict"
    return outcome


def _apply(db: Database, steps: Sequence[StepCommit], lease_s: float) -> list[Emitted]:
    out: list[Emitted] = []
    touched: dict[UUID, None] = {}
    ended: list[QuestionRow] = []
    joins = {(join.owner, join.name): join.id for step in steps for join in step.joins}
    for step in steps:
        for entry in step.entries:
            if _append(db, step.run_no, entry, lease_s, out):
                touched |= dict.fromkeys(_project(db, entry))
                ended += _over(db, entry)
        if step.question is not None:
            _update_question(db, step.question)
            touched[step.question.question] = None
        if step.memory is not None:
            write_memories(db, step.memory, cause=step.entries[0].event_id)
        if step.policy is not None:
            write_policy(db, step.policy, run_no=step.run_no, cause=step.entries[0].event_id)
    for question in touched:
        out += _join(db, question, joins)
    return out + _settle_runs(db, steps, ended)


def _append(db: Database, run_no: int, entry: Entry, lease_s: float, out: list[Emitted]) -> bool:
    """Append one entry and turn its stream; False when its condition does not hold."""
    row = db.active.get(entry.stream)
    if entry.guard is Guard.CREATE:
        if row is not None:
            return False
        row = db.active[entry.stream] = _created(db, run_no, entry)
    elif row is None or (entry.guard is Guard.STATUS and row.status not in entry.when):
        return False
    claimed = entry.guard is Guard.CLAIM
    sent = db.append(
        row.head,
        NewEvent(
            run_no=run_no,
            stream=entry.stream,
            id=entry.event_id,
            kind=entry.kind,
            type=entry.type,
            body=entry.body,
            topic=entry.topic,
            cause=entry.cause,
            correlation=entry.parent,
            claim=entry.claim if claimed else None,
            attempt=entry.attempt if claimed else None,
        ),
    )
    lease = None
    if entry.next_claim is not None:
        lease = Lease(entry.next_claim, db.after(lease_s))
    row.turn(entry.status, entry.topic, entry.event_id, db.clock(), lease)
    if entry.status == ENDED:
        del db.active[entry.stream]
    _publish(db, entry, sent, out)
    return True


def _created(db: Database, run_no: int, entry: Entry) -> ActiveRow:
    return ActiveRow(
        stream=entry.stream,
        run_no=run_no,
        kind=entry.kind,
        status=entry.status,
        head=Head(),
        pending=entry.event_id,
        topic=entry.topic,
        parent=entry.parent,
        updated_at=db.clock(),
    )


def _publish(db: Database, entry: Entry, sent: Emitted, out: list[Emitted]) -> None:
    if entry.topic is not None:
        out.append(msgspec.structs.replace(sent, claimed=entry.next_claim is not None))
    if entry.outbox is not None:
        fact = emitted(db.events[entry.stream][-1], entry.outbox, outbound=True)
        db.outbox[fact.id] = OutboxRow(fact=fact, try_after=db.clock() + OUTBOX_GRACE)
        out.append(fact)


def _project(db: Database, entry: Entry) -> list[UUID]:
    """Keep the rollout's row and its question's counters; the question when they moved."""
    if entry.parent is not None and entry.number is not None:
        db.rollouts[entry.stream] = RolloutRow(
            id=entry.stream, question=entry.parent, number=entry.number
        )
    rollout = db.rollouts.get(entry.stream)
    if rollout is None or entry.phase is None or entry.phase <= rollout.phase:
        return []
    question = db.questions[rollout.question]
    question.planned += rollout.phase < Phase.PLANNED <= entry.phase
    question.ended += entry.phase == Phase.ENDED
    rollout.phase, rollout.outcome = entry.phase, entry.outcome
    return [question.id]


def _over(db: Database, entry: Entry) -> list[QuestionRow]:
    if entry.kind is not Kind.QUESTION or entry.status != ENDED:
        return []
    question = db.questions[entry.stream]
    if question.closed:
        return []
    question.closed = True
    return [question]


def _update_question(db: Database, update: QuestionUpdate) -> None:
    row = db.questions[update.question]
    row.g = row.g if update.fanned is None else update.fanned
    for name in ("candidate", "official", "answer", "status", "reason", "grade"):
        value = getattr(update, name)
        if value is not None:
            setattr(row, name, value)


def _join(db: Database, question: UUID, joins: dict[tuple[UUID, str], UUID]) -> list[Emitted]:
    """Append the event of a join that is complete now."""
    row, active = db.questions[question], db.active.get(question)
    join = _JOINS.get(active.status) if active is not None else None
    if active is None or join is None or not _complete(db, row, active.status):
        return []
    event = _joined(join.event, row)
    rule = transition(Kind.QUESTION, QUESTION, active.status, join.event)
    event_id = joins[question, join.name.format(candidate=row.candidate)]
    sent = db.append(
        active.head,
        NewEvent(
            run_no=row.run_no,
            stream=question,
            id=event_id,
            kind=Kind.QUESTION,
            type=join.event,
            body=encode_payload(event),
            topic=rule.topic,
            correlation=question,
        ),
    )
    active.turn(rule.status, rule.topic, event_id, db.clock())
    return [sent]


def _joined(name: str, row: QuestionRow) -> ev.Event:
    if name == "question.settling" and row.candidate is not None:
        return ev.QuestionSettling(candidate=row.candidate)
    return ev.EVENT_TYPES[name]()


def _complete(db: Database, row: QuestionRow, status: str) -> bool:
    match status:
        case "planning":
            return row.planned >= row.g
        case "grading":
            return row.ended >= row.g
        case _:
            return any(
                rollout.phase >= Phase.PROPOSED
                for rollout in db.rollouts.values()
                if rollout.question == row.id and rollout.number == row.candidate
            )


def _settle_runs(
    db: Database, steps: Iterable[StepCommit], ended: Iterable[QuestionRow]
) -> list[Emitted]:
    """Count questions that are over for their batch and run, seal generations, and go on."""
    runs: set[int] = set()
    for question in ended:
        db.runs[question.run_no].ended += 1
        runs.add(question.run_no)
        if question.batch is not None:
            db.batches[question.run_no, question.batch].ended += 1
    for step in steps:
        if step.generation is not None:
            db.runs[step.run_no].sealed_gen = step.generation
            seal(db, db.runs[step.run_no], step.generation, step.decision)
            runs.add(step.run_no)
    return [sent for run_no in sorted(runs) for sent in advance_run(db, db.runs[run_no])]


__all__ = ["OUTBOX_GRACE", "commit_units"]
