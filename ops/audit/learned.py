"""Memories, credits, labels and dead letters against the events that they come from."""

from __future__ import annotations

from uuid import UUID

from mia_events.lifecycle import Kind
from ops.audit.book import Book
from ops.audit.findings import Check, Findings
from schemas import events as ev
from storage.postgres.audit import MemoryRow


def check_learned(book: Book, findings: Findings) -> None:
    """A scope that other runs share is checked as far as this run wrote it."""
    writers: dict[int, set[UUID]] = {}
    for memory in book.history.memories:
        if (writer := _writer(book, memory)) is not None:
            _written(book, memory, writer, findings)
            writers.setdefault(memory.from_gen, set()).add(writer)
        elif book.run.scope == f"run:{book.run.id}":
            findings.add(
                Check.MEMORY,
                f"version {memory.version} was written by no event of this run",
                memory.id,
            )
    for generation, events in writers.items():
        findings.require(
            len(events) == 1,
            Check.MEMORY,
            f"generation {generation} was written by {len(events)} events",
        )
    _credits(book, findings)
    _facts(book, findings)


def _writer(book: Book, memory: MemoryRow) -> UUID | None:
    """The event that wrote a version: the last of its causes, unless that is another run's."""
    last = memory.causes[-1] if memory.causes else None
    return last if last in book.by_id else None


def _written(book: Book, memory: MemoryRow, writer: UUID, findings: Findings) -> None:
    payload = book.by_id[writer].payload
    match payload:
        case ev.LearnerMerged(generation=generation) | ev.LearnerSealed(generation=generation):
            holds = generation == memory.from_gen
        case ev.QuestionConsolidated():
            holds = book.live
        case ev.MemoryImported():
            holds = book.live or memory.from_gen == 0
        case _:
            holds = payload is None
    findings.require(
        holds,
        Check.MEMORY,
        f"version {memory.version} of generation {memory.from_gen} was written by "
        f"{book.by_id[writer].where}",
        memory.id,
    )
    if memory.until_gen is not None and memory.until_gen <= memory.from_gen:
        findings.add(
            Check.MEMORY,
            f"version {memory.version} lasts from generation {memory.from_gen} "
            f"until {memory.until_gen}",
            memory.id,
        )


def _credits(book: Book, findings: Findings) -> None:
    """A credit is there exactly when its question gave it and was learned from."""
    known = {memory.id for memory in book.history.memories}
    told = {
        (c.memory, c.question): c.won for c in book.history.credits if c.question in book.questions
    }
    given: dict[tuple[UUID, UUID], bool] = {}
    merged = _merged(book)
    for row in book.history.questions:
        stream = book.streams.get(row.id)
        for left in stream.payloads(ev.QuestionConsolidated) if stream is not None else ():
            if book.live or row.batch in merged:
                given |= {(use.memory, row.id): use.won for use in left.uses if use.memory in known}
    for (memory, question), won in sorted(told.items() - given.items()):
        findings.add(Check.MEMORY, f"has a credit (won: {won}) that {question} never gave", memory)
    for (memory, question), won in sorted(given.items() - told.items()):
        findings.add(Check.MEMORY, f"lacks the credit (won: {won}) that {question} gave", memory)


def _merged(book: Book) -> set[int]:
    """The batches whose memories were written: a seal after a failed merge wrote none."""
    learners = book.of_kind(Kind.LEARNER)
    merged = {m.number for stream in learners for m in stream.payloads(ev.LearnerMerged)}
    return merged | {
        sealed.number
        for stream in learners
        for sealed in stream.payloads(ev.LearnerSealed)
        if sealed.training != "failed"
    }


def _facts(book: Book, findings: Findings) -> None:
    for letter in book.history.letters:
        stream = book.streams.get(letter.id)
        for told in stream.payloads(ev.DeadLetter) if stream is not None else ():
            findings.require(
                told.sha256 == letter.sha256.hex(),
                Check.PROJECTION,
                "the dead letter's row and event name different bytes",
                letter.id,
            )
    for label in book.history.labels:
        stream = book.streams.get(label.id)
        for received in stream.payloads(ev.LabelReceived) if stream is not None else ():
            findings.require(
                (received.question, received.commitment)
                == (label.question, label.commitment.hex()),
                Check.PROJECTION,
                "the label's row and event differ",
                label.id,
            )


__all__ = ["check_learned"]
