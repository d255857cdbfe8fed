"""A scope's memories made again from the events that wrote them, and compared with what is there.

The twin of the memory store makes them: not the code that wrote them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar
from uuid import UUID

import msgspec

from mia_events.lifecycle import Kind
from mia_events.memories import batch_write, imported_write, live_write
from mia_events.steps import MemoryWrite
from ops.audit.book import Book
from ops.audit.findings import Check, Findings
from schemas import events as ev
from schemas.envelope import Unreadable, decode_payload
from schemas.events import Payload
from storage.inmemory.memory import write_memories
from storage.inmemory.state import Database
from storage.postgres.audit import WriteRow

_Key = TypeVar("_Key")


def check_rebuilt(book: Book, findings: Findings) -> None:
    """Every version and credit of the run's scope is what its events make. A scope of which a
    writing event is gone (erased, purged) is left out: its rows can no longer be made again.
    """
    _logged(book, findings)
    made = _made_again(book)
    if made is None:
        return
    there = {(m.id, m.version): m for m in book.history.memories}
    _compare(
        {
            key: (m.dedupe_key, m.outcome, m.text, m.question, m.trust, m.from_gen, m.until_gen,
                  m.brought_uses, m.brought_wins)
            for key, m in there.items()
        },
        {
            (m.id, m.version): (m.dedupe_key, m.outcome, m.text, m.question, m.trust, m.from_gen,
                                m.until_gen, m.brought_uses, m.brought_wins)
            for m in made.memories
        },
        "version",
        findings,
    )  # fmt: skip
    known = {memory.id for memory in book.history.memories}
    _compare(
        {(c.memory, c.question): (c.gen, c.won) for c in book.history.credits},
        {key: (c.gen, c.won) for key, c in made.credits.items() if key[0] in known},
        "credit",
        findings,
    )


def _compare(
    there: Mapping[tuple[UUID, _Key], object],
    made: Mapping[tuple[UUID, _Key], object],
    what: str,
    findings: Findings,
) -> None:
    for key in there.keys() | made.keys():
        memory, which = key
        if key not in made:
            findings.add(Check.MEMORY, f"{what} {which} is made by no event", memory)
        elif key not in there:
            findings.add(Check.MEMORY, f"{what} {which} is lost: its events make it", memory)
        elif there[key] != made[key]:
            findings.add(Check.MEMORY, f"{what} {which} is not what its events make", memory)


def _made_again(book: Book) -> Database | None:
    made = Database()
    for row in book.history.writes:
        write = _write(book, row)
        if write is None:
            return None
        again = msgspec.structs.replace(write, generation=row.generation)
        write_memories(made, again, cause=row.event_id)
    return made


def _write(book: Book, row: WriteRow) -> MemoryWrite | None:
    """What the event wrote; None when it cannot be read, or is another run's whole batch."""
    scope = book.run.scope
    match _payload(book, row):
        case ev.QuestionConsolidated() as left if row.stream is not None:
            return live_write(scope, row.stream, left, cap=row.cap)
        case ev.MemoryImported() as part:
            return imported_write(part, row.event_id, generation=None, cap=row.cap)
        case ev.LearnerMerged(number=number) | ev.LearnerSealed(number=number):
            return _batch(book, row, number)
        case _:
            return None


def _payload(book: Book, row: WriteRow) -> Payload | None:
    if row.event_id in book.by_id:
        return book.by_id[row.event_id].payload
    try:
        return decode_payload(row.body) if row.body is not None else None
    except Unreadable:
        return None


def _batch(book: Book, row: WriteRow, number: int) -> MemoryWrite | None:
    if row.run_no != book.run.run_no:
        return None
    questions: list[tuple[UUID, ev.QuestionConsolidated]] = []
    for question in sorted(book.history.questions, key=lambda one: one.pos):
        if question.batch != number or question.id not in book.streams:
            continue
        match book.streams[question.id].entries[-1].payload:
            case None:
                return None
            case ev.QuestionConsolidated() as left:
                questions.append((question.id, left))
    return batch_write(book.run.scope, row.generation, questions, cap=row.cap)


def _logged(book: Book, findings: Findings) -> None:
    """Every event of the run that writes memories is among the writes of its scope."""
    logged = {row.event_id for row in book.history.writes}
    for event, where in _writing(book):
        findings.require(
            event in logged, Check.MEMORY, f"{where}: is no write of scope {book.run.scope}", event
        )


def _writing(book: Book) -> Iterator[tuple[UUID, str]]:
    for entry in book.by_id.values():
        left = entry.payload
        if isinstance(left, ev.MemoryImported) or (
            book.live and isinstance(left, ev.QuestionConsolidated) and (left.memories or left.uses)
        ):
            yield entry.row.id, entry.where
    merged: set[int] = set()
    if book.live:
        return  # a learner's batches are only to be trained on
    for stream in book.of_kind(Kind.LEARNER):
        for entry in stream.entries:
            match entry.payload:
                case ev.LearnerMerged(number=number):
                    merged.add(number)
                    yield entry.row.id, entry.where
                case ev.LearnerSealed(number=number, training=training):
                    if number not in merged and training != "failed":
                        yield entry.row.id, entry.where


__all__ = ["check_rebuilt"]
