"""How a question is taken into a run, and which batch it joins."""

from __future__ import annotations

from mia_events import ids
from mia_events.lifecycle import Kind
from schemas import events as ev
from storage.inmemory.advance import append_batch_event
from storage.inmemory.state import BatchRow, Database, Head, NewEvent, QuestionRow, RunRow
from storage.ports import AcceptOutcome, NewQuestion


def admit(db: Database, run: RunRow, new: NewQuestion) -> AcceptOutcome:
    """Record one question; it waits until `advance_run` releases it."""
    if new.id in db.questions:
        return "duplicate"
    if run.state not in {"running", "paused"}:
        return "closed"
    position = run.next_pos if new.position is None else new.position
    if any(q.run_no == run.run_no and q.pos == position for q in db.questions.values()):
        return "position_taken"
    batch = _join_batch(db, run, position) if run.manifest.mode == "batch" else None
    head = Head()
    asked = NewEvent(
        run_no=run.run_no,
        stream=new.id,
        id=ids.event_id(new.id, 1),
        kind=Kind.QUESTION,
        type="question.asked",
        body=new.body,
        correlation=new.id,
    )
    db.append(head, asked)
    db.questions[new.id] = QuestionRow(
        id=new.id, run_no=run.run_no, pos=position, batch=batch, new=new, head=head
    )
    run.next_pos = max(run.next_pos, position + 1)
    run.accepted += 1
    return "accepted"


def _join_batch(db: Database, run: RunRow, position: int) -> int:
    """The number of the batch that a position falls into; its own, or the first still open."""
    number = run.base_batch + max(0, position - run.base_pos) // run.manifest.batch_size
    own = [batch for batch in db.batches.values() if batch.run_no == run.run_no]
    if any(batch.number == number and not _has_room(run, batch) for batch in own):
        room = [batch.number for batch in own if _has_room(run, batch)]
        number = min([*room, max(batch.number for batch in own) + 1])
    batch = db.batches.get((run.run_no, number)) or _start_batch(db, run, number)
    batch.size += 1
    return number


def _has_room(run: RunRow, batch: BatchRow) -> bool:
    return batch.status in {"filling", "open"} and batch.size < run.manifest.batch_size


def _start_batch(db: Database, run: RunRow, number: int) -> BatchRow:
    batch = db.batches[run.run_no, number] = BatchRow(
        id=ids.batch_id(run.id, number), run_no=run.run_no, number=number, first_at=db.clock()
    )
    append_batch_event(db, run, batch, ev.BatchStarted(number=number), "started")
    return batch


__all__ = ["admit"]
