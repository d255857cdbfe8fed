"""Where streams stand: the rows that are updated in place against the ends of their events."""

from __future__ import annotations

from uuid import UUID

from mia_events import ids
from mia_events.lifecycle import Kind
from ops.audit.book import Book, Stream
from ops.audit.findings import Check, Findings
from storage.postgres.audit import ActiveRow

_COMMANDED = (Kind.ROLLOUT, Kind.QUESTION, Kind.LEARNER)


def check_heads(book: Book, findings: Findings) -> None:
    """Status, version and head of every stream, and that each belongs to something."""
    active = {row.stream: row for row in book.history.active}
    for stream in book.streams.values():
        if stream.kind in _COMMANDED:
            _active(book, stream, active.pop(stream.id, None), findings)
    for orphan in active.values():
        findings.add(
            Check.HEAD, f"is {orphan.status} at {orphan.version} but has no event", orphan.stream
        )
    _single_rows(book, findings)
    _kinship(book, findings)


def _active(book: Book, stream: Stream, row: ActiveRow | None, findings: Findings) -> None:
    if stream.status is None:
        return  # the walk has said why
    # A waiting question has a row only for the moment in which it is cancelled.
    waiting = stream.kind == Kind.QUESTION and stream.status == "waiting"
    dismissed = stream.kind == Kind.LEARNER and book.ended
    if row is None:
        needed = not (stream.over or waiting or dismissed)
        findings.require(
            not needed, Check.HEAD, f"is {stream.status}, but no worker can find it", stream.id
        )
        return
    if stream.over:
        findings.add(Check.HEAD, f"is {stream.status}, but stands as {row.status}", stream.id)
        return
    last = stream.last
    pending = row.pending if row.pending is not None or stream.kind != Kind.LEARNER else last.id
    told = (row.status, row.version, row.topic, pending, row.kind)
    found = (stream.status, last.seq, stream.standing.topic, last.id, stream.kind)
    findings.require(
        told == found, Check.HEAD, f"stands as {told}, its events say {found}", stream.id
    )
    findings.require(row.head == last.hash, Check.HEAD, _not_the_end(last.seq), stream.id)


def _single_rows(book: Book, findings: Findings) -> None:
    for batch in book.history.batches:
        _stands(book, batch.id, (batch.status, batch.version, batch.head), findings)
    if book.run.run_no > 0:
        _stands(book, book.run.id, (book.run.state, book.run.version, book.run.head), findings)
    for question in book.history.questions:
        stream = book.streams.get(question.id)
        if stream is not None and question.head != stream.entries[0].row.hash:
            findings.add(Check.HEAD, "its row holds another hash of its first event", question.id)


def _stands(book: Book, stream_id: UUID, told: tuple[str, int, bytes], findings: Findings) -> None:
    stream = book.streams.get(stream_id)
    if stream is None or stream.status is None:
        return
    status, version, head = told
    found = (stream.status, stream.last.seq)
    findings.require(
        (status, version) == found,
        Check.HEAD,
        f"stands as {(status, version)}, its events say {found}",
        stream_id,
    )
    findings.require(head == stream.last.hash, Check.HEAD, _not_the_end(stream.last.seq), stream_id)


def _not_the_end(seq: int) -> str:
    return f"its head is not the hash of event {seq}"


def _kinship(book: Book, findings: Findings) -> None:
    owned = _owned(book)
    for stream in book.streams.values():
        if stream.id not in owned:
            findings.add(
                Check.KINSHIP,
                f"begins with {stream.entries[0].row.type}, but no row has it",
                stream.id,
            )
        elif stream.kind != owned[stream.id]:
            findings.add(
                Check.KINSHIP,
                f"is of kind {stream.kind}, its row of {owned[stream.id].name}",
                stream.id,
            )
    for stream_id, kind in owned.items():
        if stream_id not in book.streams:
            findings.add(Check.KINSHIP, f"a {kind.name.lower()} has no event", stream_id)
    _families(book, findings)


def _owned(book: Book) -> dict[UUID, Kind]:
    owned = dict.fromkeys(book.questions, Kind.QUESTION)
    owned |= dict.fromkeys(book.rollouts, Kind.ROLLOUT)
    owned |= dict.fromkeys((b.id for b in book.history.batches), Kind.BATCH)
    owned |= dict.fromkeys((row.id for row in book.history.letters), Kind.FACT)
    owned |= dict.fromkeys((row.id for row in book.history.labels), Kind.FACT)
    owned |= {stream.id: Kind.FACT for stream in book.streams.values() if stream.imports}
    if book.run.run_no > 0:
        owned[book.run.id] = Kind.RUN
        if not book.live or book.run.trains:
            owned[ids.learner_id(book.run.id)] = Kind.LEARNER
    return owned


def _families(book: Book, findings: Findings) -> None:
    """Events of questions and rollouts name their question."""
    for stream in book.streams.values():
        if stream.kind not in (Kind.ROLLOUT, Kind.QUESTION):
            continue
        question = book.question_of(stream)
        for entry in stream.entries:
            if question is not None and entry.row.correlation != question.id:
                findings.add(
                    Check.KINSHIP,
                    f"{entry.where}: belongs to {entry.row.correlation}, "
                    f"its stream to {question.id}",
                    stream.id,
                    entry.row.seq,
                )


__all__ = ["check_heads"]
