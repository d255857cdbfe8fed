"""Every step once: each stream on its own, event by event."""

from __future__ import annotations

from collections import Counter
from hashlib import sha256
from typing import Final
from uuid import UUID

from mia_events import topics
from mia_events.chain import GENESIS, chain_hash
from mia_events.lifecycle import Kind
from ops.audit.book import Book, Entry, Stream
from ops.audit.findings import Check, Findings
from ops.audit.origins import PREEMPTING, Origin, origin
from schemas.events import event_type

_FACTS: Final = ("dead_letter", "label.received", "memory.imported")


def check_streams(book: Book, findings: Findings) -> None:
    """Order, ids, causes, claims, transitions and chains of every stream."""
    claims: Counter[int] = Counter()
    seen: set[UUID] = set()
    for stream in book.streams.values():
        _sequence(stream, findings)
        _chain(stream, findings)
        _walk(stream, findings)
        _origins(book, stream, findings, claims)
        _ids_are_new(stream, seen, findings)
    for row in book.history.active:
        if row.claim is not None and claims[row.claim]:
            findings.add(
                Check.CLAIM, f"is held under claim {row.claim}, which was used already", row.stream
            )


def _sequence(stream: Stream, findings: Findings) -> None:
    for place, entry in enumerate(stream.entries, start=1):
        if entry.row.seq != place:
            what = f"event {place} is missing" if entry.row.seq > place else "comes twice"
            findings.add(Check.SEQUENCE, f"{entry.where}: {what}", stream.id, entry.row.seq)
            return


def _ids_are_new(stream: Stream, seen: set[UUID], findings: Findings) -> None:
    for entry in stream.entries:
        if entry.row.id in seen:
            findings.add(
                Check.IDENTITY,
                f"{entry.where}: its id is another event's",
                stream.id,
                entry.row.seq,
            )
        seen.add(entry.row.id)


def _chain(stream: Stream, findings: Findings) -> None:
    """Name the first row that does not follow; an erased payload is vouched for by its digest."""
    previous = GENESIS
    for entry in stream.entries:
        row = entry.row
        if row.body is not None and sha256(row.body).digest() != row.body_sha:
            findings.add(
                Check.CHAIN,
                f"{entry.where}: its payload is not what was hashed",
                stream.id,
                row.seq,
            )
            return
        expected = chain_hash(
            previous,
            stream=row.stream,
            seq=row.seq,
            event_id=row.id,
            cause=row.cause,
            at=row.at,
            body_sha256=row.body_sha,
            type_=row.type,
        )
        if row.hash != expected:
            findings.add(
                Check.CHAIN,
                f"{entry.where}: its hash does not follow from the one before",
                stream.id,
                row.seq,
            )
            return
        previous = row.hash


def _walk(stream: Stream, findings: Findings) -> None:
    """What each event is, and whether the life-cycle table allowed it and sent it there."""
    for entry in stream.entries:
        _body(entry, findings)
        if entry.row.kind != stream.kind:
            what = f"{entry.where}: is of kind {entry.row.kind} in a stream of kind {stream.kind}"
            findings.add(Check.KINSHIP, what, stream.id, entry.row.seq)
    if stream.kind == Kind.FACT:
        for entry in stream.entries:
            _fact(entry, findings)
        return
    standing = stream.standing
    for entry, rule in zip(stream.entries, standing.rules, strict=False):
        _route(entry, rule.topic, findings)
    if standing.problem:
        bad = stream.entries[len(standing.rules)]
        what = f"event {bad.row.seq}: {standing.problem}"
        findings.add(Check.TRANSITION, what, stream.id, bad.row.seq)


def _fact(entry: Entry, findings: Findings) -> None:
    if entry.row.seq != 1 or entry.row.type not in _FACTS:
        findings.add(
            Check.TRANSITION,
            f"{entry.where}: a fact has one event: {', '.join(_FACTS)}",
            entry.row.stream,
            entry.row.seq,
        )
    _route(entry, topics.DEAD_LETTER if entry.row.type == "dead_letter" else None, findings)


def _route(entry: Entry, topic: str | None, findings: Findings) -> None:
    if entry.row.topic != topic:
        findings.add(
            Check.ROUTE,
            f"{entry.where}: is for {entry.row.topic}, its table says {topic}",
            entry.row.stream,
            entry.row.seq,
        )


def _body(entry: Entry, findings: Findings) -> None:
    row = entry.row
    if entry.problem:
        findings.add(Check.BODY, f"{entry.where}: {entry.problem}", row.stream, row.seq)
    elif entry.payload is not None and event_type(entry.payload) != row.type:
        findings.add(
            Check.BODY,
            f"{entry.where}: its payload says {event_type(entry.payload)}",
            row.stream,
            row.seq,
        )


def _origins(book: Book, stream: Stream, findings: Findings, claims: Counter[int]) -> None:
    caused: set[UUID] = set()
    before: Entry | None = None
    for entry in stream.entries:
        row, source = entry.row, origin(entry)
        if source.id is not None and row.id != source.id:
            findings.add(
                Check.IDENTITY,
                f"{entry.where}: its id is {row.id}, its place derives {source.id}",
                stream.id,
                row.seq,
            )
        if source.own and row.cause is not None:
            if row.cause in caused:
                findings.add(
                    Check.DONE_ONCE,
                    f"{entry.where}: the command that led to it, {row.cause}, "
                    "led to another step before",
                    stream.id,
                    row.seq,
                )
            caused.add(row.cause)
        if problem := _cause(book, entry, source, before):
            findings.add(Check.CAUSE, f"{entry.where}: {problem}", stream.id, row.seq)
        if problem := _claimed(entry, source, claims):
            findings.add(Check.CLAIM, f"{entry.where}: {problem}", stream.id, row.seq)
        before = entry


def _cause(book: Book, entry: Entry, source: Origin, before: Entry | None) -> str:
    cause = entry.row.cause
    if cause is not None and cause not in book.by_id:
        return f"its cause {cause} does not exist"
    if source.own:
        # What is handled is the stream's last event: a step that rests on another one overtook it.
        expected = before.row.id if before is not None else None
        return "" if cause == expected else f"is caused by {cause}, the event before is {expected}"
    if source.ordered:
        return "" if cause is not None else "was ordered by nobody"
    return "" if cause is None or entry.row.kind == Kind.FACT else f"has a cause, {cause}"


def _claimed(entry: Entry, source: Origin, claims: Counter[int]) -> str:
    claim = entry.row.claim
    if claim is None:
        needed = source.own and entry.row.type not in PREEMPTING
        return "was committed without a claim" if needed else ""
    claims[claim] += 1
    if claims[claim] > 1:
        return f"was committed under claim {claim}, which was used already"
    if not source.own:
        return f"has a claim, {claim}, but is no step of its stream"
    return "" if (entry.row.attempt or 0) >= 1 else f"has a claim but attempt {entry.row.attempt}"


__all__ = ["check_streams"]
