"""Batches hold what they say, are pinned as their lag says, and are learned from in order."""

from __future__ import annotations

from collections import Counter

from mia_events import ids
from mia_events.lifecycle import Kind
from ops.audit.book import Book, Stream
from ops.audit.findings import Check, Findings
from schemas import events as ev
from storage.postgres.audit import BatchRow


def check_batches(book: Book, findings: Findings) -> None:
    """Sizes, pins, seals; of a live run that nothing is pinned to a batch."""
    sizes = Counter(q.batch for q in book.history.questions)
    ended = Counter(q.batch for q in book.history.questions if q.closed)
    for batch in book.history.batches:
        _contents(book, batch, (sizes[batch.number], ended[batch.number]), findings)
        _announced(book, batch, findings)
        _pin(book, batch, findings)
    unknown = set(sizes) - set(book.batches) - {None}
    findings.require(
        not unknown, Check.BATCH, f"questions are in batches {unknown}, which there are not"
    )
    if not book.live:
        findings.require(None not in sizes, Check.BATCH, f"{sizes[None]} questions are in no batch")
    _pinned_questions(book, findings)
    for learner in book.of_kind(Kind.LEARNER):
        _seals(book, learner, findings)


def _contents(book: Book, batch: BatchRow, found: tuple[int, int], findings: Findings) -> None:
    told = (batch.size, batch.ended)
    findings.require(
        told == found,
        Check.BATCH,
        f"batch {batch.number} counts (size, ended) {told}, its questions say {found}",
        batch.id,
    )
    findings.require(
        batch.size <= book.run.batch_size,
        Check.BATCH,
        f"batch {batch.number} holds {batch.size}, more than {book.run.batch_size}",
        batch.id,
    )
    findings.require(
        batch.id == ids.batch_id(book.run.id, batch.number),
        Check.IDENTITY,
        f"batch {batch.number} has the id of another",
        batch.id,
    )
    complete = found[1] >= found[0]
    if batch.status == "ended":
        findings.require(
            complete, Check.BATCH, f"batch {batch.number} ended before its questions", batch.id
        )
    elif batch.status == "running" and book.run.state in ("running", "closing"):
        findings.require(
            not complete,
            Check.JOIN,
            f"batch {batch.number} waits for questions that have ended",
            batch.id,
        )


def _announced(book: Book, batch: BatchRow, findings: Findings) -> None:
    """What the batch's events say is what its row says."""
    stream = book.streams.get(batch.id)
    if stream is None:
        return
    for entry in stream.entries:
        wrong = ""
        match entry.payload:
            case ev.BatchClosed(size=size, reason=reason):
                if size != batch.size:
                    wrong = f"closed at {size} questions, it has {batch.size}"
                elif reason == "full" and size != book.run.batch_size:
                    wrong = f"closed as full at {size} of {book.run.batch_size}"
            case ev.BatchOpened(generation=generation, policy=policy):
                told = (batch.generation, batch.policy)
                if (generation, policy) != told:
                    wrong = f"opened on {(generation, policy)}, is on {told}"
        if not wrong and getattr(entry.payload, "number", batch.number) != batch.number:
            wrong = "names another batch"
        if wrong:
            findings.add(
                Check.BATCH,
                f"batch {batch.number}, {entry.where}: {wrong}",
                batch.id,
                entry.row.seq,
            )


def _pin(book: Book, batch: BatchRow, findings: Findings) -> None:
    """Batch k is on generation k - lag, which was sealed."""
    stream = book.streams.get(batch.id)
    opened = stream is not None and bool(stream.of("batch.opened"))
    expected = max(0, batch.number - book.run.lag) if opened else None
    findings.require(
        batch.generation == expected,
        Check.GENERATION,
        f"batch {batch.number} is on generation {batch.generation}, its lag says {expected}",
        batch.id,
    )
    findings.require(
        expected is None or book.run.sealed_gen >= expected,
        Check.GENERATION,
        f"batch {batch.number} is open, but only generation {book.run.sealed_gen} is sealed",
        batch.id,
    )


def _pinned_questions(book: Book, findings: Findings) -> None:
    for row in book.history.questions:
        stream = book.streams.get(row.id)
        opened = next(stream.payloads(ev.QuestionOpened), None) if stream is not None else None
        if opened is None:
            continue
        batch = book.batches.get(row.batch) if row.batch is not None else None
        pin = (
            batch.generation if batch is not None else 0,
            opened.policy if batch is None else batch.policy,
        )
        findings.require(
            (opened.generation, opened.policy) == pin,
            Check.GENERATION,
            f"opened on {(opened.generation, opened.policy)}, its batch is on {pin}",
            row.id,
        )
        for rollout in book.rollouts_of.get(row.id, []):
            _pinned_rollout(book.streams.get(rollout.id), opened, findings)


def _pinned_rollout(stream: Stream | None, question: ev.QuestionOpened, findings: Findings) -> None:
    for opened in stream.payloads(ev.RolloutOpened) if stream is not None else ():
        told, pin = (opened.generation, opened.policy), (question.generation, question.policy)
        findings.require(
            told == pin,
            Check.GENERATION,
            f"opened on {told}, its question is on {pin}",
            stream.id if stream is not None else None,
        )


def _seals(book: Book, learner: Stream, findings: Findings) -> None:
    """One batch at a time, in order; generation k + 1 comes from batch k, which had ended."""
    ready = before = -1
    sealed = 0
    for entry in learner.entries:
        wrong = ""
        match entry.payload:
            case ev.LearnerBatchReady(number=number):
                if number <= before:
                    wrong = f"batch {number} comes after batch {before}"
                elif not book.live and not _has_ended(book, number):
                    wrong = f"batch {number} had not ended"
                ready = before = number
            case ev.LearnerMerged(number=number, generation=generation):
                if (number, generation) != (ready, ready + 1):
                    wrong = (
                        f"merged batch {number} to generation {generation}, ready was batch {ready}"
                    )
            case ev.LearnerSealed(number=number, generation=generation):
                if (number, generation) != (ready, ready + 1):
                    wrong = (
                        f"sealed generation {generation} of batch {number}, ready was batch {ready}"
                    )
                sealed = generation
        if wrong:
            findings.add(Check.GENERATION, f"{entry.where}: {wrong}", learner.id, entry.row.seq)
    _sealed(book, learner, sealed, findings)


def _has_ended(book: Book, number: int) -> bool:
    return number in book.batches and book.batches[number].status == "ended"


def _sealed(book: Book, learner: Stream, sealed: int, findings: Findings) -> None:
    """The run's newest generation; at its end it may skip batches that never had a question."""
    told = book.run.sealed_gen
    if any(e.payload is None for e in learner.of("learner.sealed")):
        return
    skipped = [number for number in book.batches if sealed <= number < told]
    findings.require(
        told >= sealed and not skipped,
        Check.GENERATION,
        f"the run says that generation {told} is sealed, its learner {sealed}",
        learner.id,
    )
    waiting = book.batches.get(told)
    findings.require(
        not (
            learner.status == "idle"
            and book.run.state in ("running", "closing")
            and waiting is not None
            and waiting.status == "ended"
        ),
        Check.JOIN,
        f"is idle although batch {told} has ended",
        learner.id,
    )


__all__ = ["check_batches"]
