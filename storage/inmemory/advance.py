"""What a run does by itself: batches close, open and end, questions are released, it finishes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from mia_events import ids, topics
from mia_events.learning.governor import may_open, room
from mia_events.lifecycle import BATCH, ENDED, LEARNER, Kind
from mia_events.lifecycle import advance as transition
from schemas import events as ev
from schemas.envelope import encode_payload
from schemas.events import Event, event_type
from storage.inmemory.policies import policy_of, trainable
from storage.inmemory.state import ActiveRow, BatchRow, Database, NewEvent, QuestionRow, RunRow
from storage.ports import Emitted

CloseReason = Literal["full", "run_closed", "linger", "deadline"]


def advance_run(db: Database, run: RunRow) -> tuple[Emitted, ...]:
    """Do what is due in a run and return what is to be published; nothing while it is paused."""
    if not run.moving:
        return ()
    out: list[Emitted] = []
    learner = next((row for row in db.of_run(run.run_no) if row.kind is Kind.LEARNER), None)
    if run.manifest.mode == "batch":
        _skip_empty(db, run)
        for batch in _batches(db, run):
            _advance_batch(db, run, batch)
    out += _wake_learner(db, run, learner)
    out += _release(db, run)
    _finish(db, run, learner)
    return tuple(out)


def overdue_batch(db: Database, run: RunRow, batch: BatchRow) -> CloseReason | None:
    """Why a batch closes by the clock now, or None."""
    manifest, now = run.manifest, db.clock()
    if _passed(batch.opened_at, manifest.batch_deadline_s, now):
        return "deadline"
    if _passed(batch.first_at, manifest.batch_linger_s, now):
        return "linger"
    return None


def append_batch_event(db: Database, run: RunRow, batch: BatchRow, event: Event, name: str) -> None:
    """Append an event to a batch's stream and set its status from the life cycle."""
    status = batch.status if batch.head.version else None
    batch.status = transition(Kind.BATCH, BATCH, status, event_type(event)).status
    db.append(
        batch.head,
        NewEvent(
            run_no=run.run_no,
            stream=batch.id,
            id=ids.named_id(batch.id, name),
            kind=Kind.BATCH,
            type=event_type(event),
            body=encode_payload(event),
        ),
    )


def _passed(start: datetime | None, seconds: float | None, now: datetime) -> bool:
    if start is None or seconds is None:
        return False
    return start + timedelta(seconds=seconds) <= now


def _batches(db: Database, run: RunRow) -> list[BatchRow]:
    own = [batch for batch in db.batches.values() if batch.run_no == run.run_no]
    return sorted(own, key=lambda batch: batch.number)


def _skip_empty(db: Database, run: RunRow) -> None:
    """A batch that never received a question holds nothing back once none can come."""
    if run.state != "closing" or (run.run_no, run.sealed_gen) in db.batches:
        return
    later = [batch.number for batch in _batches(db, run) if batch.number > run.sealed_gen]
    run.sealed_gen = min(later, default=run.sealed_gen)


def _advance_batch(db: Database, run: RunRow, batch: BatchRow) -> None:
    if batch.status == ENDED:
        return
    reason = _close_reason(db, run, batch)
    if reason is not None:
        _close(db, run, batch, reason)
    if batch.status in {"filling", "full"} and may_open(
        batch.number, sealed=run.sealed_gen, lag=run.manifest.lag
    ):
        _open(db, run, batch)
    if batch.status == "running" and batch.ended >= batch.size:
        append_batch_event(db, run, batch, ev.BatchEnded(number=batch.number), "ended")


def _close_reason(db: Database, run: RunRow, batch: BatchRow) -> CloseReason | None:
    if batch.status not in {"filling", "open"}:
        return None
    if batch.size >= run.manifest.batch_size:
        return "full"
    return "run_closed" if run.state == "closing" else overdue_batch(db, run, batch)


def _close(db: Database, run: RunRow, batch: BatchRow, reason: CloseReason) -> None:
    event = ev.BatchClosed(number=batch.number, size=batch.size, reason=reason)
    append_batch_event(db, run, batch, event, "closed")
    if reason != "full" and run.state == "running":
        positions = [q.pos + 1 for q in db.questions.values() if q.run_no == run.run_no]
        run.base_pos = max(run.next_pos, *positions)
        run.base_batch = _batches(db, run)[-1].number + 1


def _open(db: Database, run: RunRow, batch: BatchRow) -> None:
    batch.generation = max(0, batch.number - run.manifest.lag)
    batch.policy = policy_of(db, run.run_no, batch.generation)
    batch.opened_at = db.clock()
    event = ev.BatchOpened(number=batch.number, generation=batch.generation, policy=batch.policy)
    append_batch_event(db, run, batch, event, "opened")


def _wake_learner(db: Database, run: RunRow, learner: ActiveRow | None) -> list[Emitted]:
    if learner is None or learner.status != "idle" or not _has_lesson(db, run):
        return []
    event = ev.LearnerBatchReady(number=run.sealed_gen)
    rule = transition(Kind.LEARNER, LEARNER, learner.status, event_type(event))
    event_id = ids.named_id(learner.stream, f"batch_ready:{run.sealed_gen}")
    sent = db.append(
        learner.head,
        NewEvent(
            run_no=run.run_no,
            stream=learner.stream,
            id=event_id,
            kind=Kind.LEARNER,
            type=event_type(event),
            body=encode_payload(event),
            topic=rule.topic,
        ),
    )
    learner.turn(rule.status, rule.topic, event_id, db.clock())
    return [sent]


def _has_lesson(db: Database, run: RunRow) -> bool:
    """The next batch has ended; in live mode as many graded groups as make one, or the last."""
    if run.manifest.mode == "batch":
        batch = db.batches.get((run.run_no, run.sealed_gen))
        return batch is not None and batch.status == ENDED
    over = run.state == "closing" and run.ended >= run.accepted
    return len(trainable(db, run.run_no)) >= (1 if over else run.manifest.batch_size)


def _release(db: Database, run: RunRow) -> list[Emitted]:
    free = _room(db, run)
    waiting = [q for q in db.questions.values() if q.run_no == run.run_no and q.status == "waiting"]
    ordered = sorted(waiting, key=lambda q: (not q.new.urgent, q.pos))
    ready = [q for q in ordered if _may_start(db, run, q)]
    reserve = max(1, run.manifest.max_in_flight // 8)
    return [
        _open_question(db, run, question)
        for place, question in enumerate(ready)
        if place < free or (question.new.urgent and place < free + reserve)
    ]


def _room(db: Database, run: RunRow) -> int:
    manifest = run.manifest
    paced = manifest.mode == "live" and manifest.train
    return room(
        limit=manifest.max_in_flight,
        opened=run.opened - run.ended,
        without_label=_without_label(db, run) if manifest.label_wait_s is not None else 0,
        graded=len(trainable(db, run.run_no)) if paced else 0,
        trained=(manifest.staleness + 1) * manifest.batch_size if paced else None,
    )


def _without_label(db: Database, run: RunRow) -> int:
    """Questions that are answered and have nothing left to do but wait for a label."""
    busy = {
        row.parent
        for row in db.active.values()
        if row.kind is Kind.ROLLOUT and row.status != "judging"
    }
    return sum(
        row.run_no == run.run_no
        and row.status in {"answered", "failed"}
        and not row.closed
        and row.id not in busy
        and not db.labels.get(row.id)
        for row in db.questions.values()
    )


def _may_start(db: Database, run: RunRow, question: QuestionRow) -> bool:
    batch = _batch_of(db, question)
    return run.manifest.mode == "live" or (batch is not None and batch.generation is not None)


def _batch_of(db: Database, question: QuestionRow) -> BatchRow | None:
    if question.batch is None:
        return None
    return db.batches.get((question.run_no, question.batch))


def _open_question(db: Database, run: RunRow, question: QuestionRow) -> Emitted:
    batch = _batch_of(db, question)
    generation = batch.generation if batch is not None and batch.generation is not None else 0
    policy = batch.policy if batch is not None and batch.policy is not None else run.policy
    event = ev.QuestionOpened(
        position=question.pos, batch=question.batch, generation=generation, policy=policy
    )
    event_id = ids.join_id(question.id, "opened")
    sent = db.append(
        question.head,
        NewEvent(
            run_no=run.run_no,
            stream=question.id,
            id=event_id,
            kind=Kind.QUESTION,
            type=event_type(event),
            body=encode_payload(event),
            topic=topics.PLAN,
            correlation=question.id,
        ),
    )
    db.active[question.id] = ActiveRow(
        stream=question.id,
        run_no=run.run_no,
        kind=Kind.QUESTION,
        status="opening",
        head=question.head,
        pending=event_id,
        topic=topics.PLAN,
        parent=question.id,
        updated_at=db.clock(),
        deadline=_deadline(db, run, batch),
    )
    question.status, question.policy = "open", policy
    run.opened += 1
    return sent


def _deadline(db: Database, run: RunRow, batch: BatchRow | None) -> datetime | None:
    limits: list[datetime] = []
    manifest = run.manifest
    if manifest.question_deadline_s is not None:
        limits.append(db.after(manifest.question_deadline_s))
    if batch is not None and batch.opened_at is not None and manifest.batch_deadline_s is not None:
        limits.append(batch.opened_at + timedelta(seconds=manifest.batch_deadline_s))
    return min(limits, default=None)


def _finish(db: Database, run: RunRow, learner: ActiveRow | None) -> None:
    unsealed = any(batch.number >= run.sealed_gen for batch in _batches(db, run))
    resting = learner is None or learner.status == "idle"
    if run.state != "closing" or run.ended < run.accepted or not resting or unsealed:
        return
    event = ev.RunFinished(questions=run.accepted)
    append_run_event(db, run, event, ids.named_id(run.id, "finished"))
    run.state = ENDED
    if learner is not None:
        del db.active[learner.stream]


def append_run_event(db: Database, run: RunRow, event: Event, event_id: UUID) -> None:
    """Append an event to the run's own stream."""
    db.append(
        run.head,
        NewEvent(
            run_no=run.run_no,
            stream=run.id,
            id=event_id,
            kind=Kind.RUN,
            type=event_type(event),
            body=encode_payload(event),
        ),
    )


__all__ = ["CloseReason", "advance_run", "append_batch_event", "append_run_event", "overdue_batch"]
