"""Topics against the ledger: every record is an event, every acknowledged fact is there."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from mia_events import topics
from mia_events.lifecycle import TABLES
from ops.audit.book import Book
from ops.audit.findings import Check, Findings
from ops.audit.log import LogRecord, Retained
from storage.postgres.audit import EventRow

#: What is read: the topics of commands and of facts for readers outside. Those that anyone may
#: write to are no copy of the ledger.
AUDITED: Final = (*topics.COMMANDS, *topics.OUTBOUND)
#: The outbound topic of each type of event that has one.
_OUTBOUND: Final[Mapping[str, str]] = {
    "dead_letter": topics.DEAD_LETTER,
    **{
        event: rule.outbox
        for table in TABLES.values()
        for (_, event), rule in table.items()
        if rule.outbox is not None
    },
}


class TopicCount(msgspec.Struct, frozen=True, kw_only=True):
    """What a topic holds of the audited runs.

    `repeats` are records of an event that lies there already, `refused` those that became dead
    letters, `others` those of runs that were not audited. `judged`: it is known when the topic was
    made, hence what it must hold.
    """

    topic: str
    records: int = 0
    events: int = 0
    repeats: int = 0
    refused: int = 0
    others: int = 0
    judged: bool = True


class LedgerSide(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger says about records.

    Its events by id, the runs that were audited, the ids of all runs by number, the digests of dead
    letters, when each topic was made.
    """

    events: Mapping[UUID, EventRow]
    audited: Collection[UUID]
    runs: Mapping[int, UUID]
    refused: Collection[bytes]
    created: Mapping[str, datetime]


def strangers(log: Mapping[str, Retained], events: Collection[UUID]) -> list[LogRecord]:
    """The records that are none of `events`."""
    return [
        record
        for retained in log.values()
        for record in retained.records
        if record.wire is None or record.wire.id not in events
    ]


def check_records(
    log: Mapping[str, Retained], ledger: LedgerSide, findings: Findings
) -> tuple[TopicCount, ...]:
    """Judge every record; what each topic holds."""
    return tuple(_topic(retained, ledger, findings) for retained in log.values())


def _topic(retained: Retained, ledger: LedgerSide, findings: Findings) -> TopicCount:
    ours: list[UUID] = []
    elsewhere = set(ledger.runs.values()) - set(ledger.audited)
    refused = others = 0
    for record in retained.records:
        wire = record.wire
        if wire is not None and wire.run in elsewhere:
            others += 1
        elif wire is not None and wire.id in ledger.events:
            ours.append(wire.id)
            _matches(record, ledger.events[wire.id], ledger, findings)
        elif record.value_sha in ledger.refused:
            refused += 1
        else:
            what = (
                "is no event"
                if wire is None
                else f"says {wire.type} {wire.id}, which the ledger has not"
            )
            findings.add(Check.RECORD, f"{record.place}: {what}", wire.stream if wire else None)
    return TopicCount(
        topic=retained.topic,
        records=len(retained.records),
        events=len(set(ours)),
        repeats=len(ours) - len(set(ours)),
        refused=refused,
        others=others,
        judged=retained.topic in ledger.created,
    )


def _matches(record: LogRecord, event: EventRow, ledger: LedgerSide, findings: Findings) -> None:
    wire = record.wire
    if wire is None:
        return
    key = record.key.decode(errors="replace") if record.key is not None else None
    told = (
        wire.stream,
        wire.seq,
        wire.type,
        wire.cause,
        wire.correlation,
        wire.occurred_at,
        key,
        record.body_sha,
        wire.run,
    )
    expected = (
        event.stream,
        event.seq,
        event.type,
        event.cause,
        event.correlation,
        event.at,
        str(event.stream),
        event.body_sha,
        ledger.runs.get(event.run_no),
    )
    names = ("stream", "seq", "type", "cause", "correlation", "time", "key", "payload", "run")
    wrong = [name for name, one, other in zip(names, told, expected, strict=True) if one != other]
    if record.topic not in (event.topic, _OUTBOUND.get(event.type)):
        wrong.append("topic")
    if wrong:
        findings.add(
            Check.RECORD,
            f"{record.place}: differs from {event.type} {event.id} in {', '.join(wrong)}",
            event.stream,
            event.seq,
        )


def check_facts(
    book: Book, log: Mapping[str, Retained], created: Mapping[str, datetime], findings: Findings
) -> int:
    """Look for every outbound fact that must be in its topic; how many there are.

    It must be there when the broker acknowledged it after the topic was made, within retention.
    """
    demanded = 0
    held = {
        topic: {record.wire.id for record in log[topic].records if record.wire is not None}
        for topic in topics.OUTBOUND
        if topic in log
    }
    for topic, row in _facts(book):
        if (
            topic not in held
            or topic not in created
            or not _within(row, log[topic], created[topic])
        ):
            continue
        demanded += 1
        if row.id not in held[topic]:
            findings.add(
                Check.FACT,
                f"{row.type} (event {row.seq}): was acknowledged, but is not in {topic}",
                row.stream,
                row.seq,
            )
    return demanded


def _facts(book: Book) -> Iterator[tuple[str, EventRow]]:
    for stream in book.streams.values():
        rules = stream.standing.rules
        for place, entry in enumerate(stream.entries):
            # An event may go out from one status and not from another; the table knows.
            known = place < len(rules)
            topic = rules[place].outbox if known else _OUTBOUND.get(entry.row.type)
            if topic is not None and entry.row.id not in book.history.outbox:
                yield topic, entry.row


def _within(row: EventRow, retained: Retained, created: datetime) -> bool:
    return row.at > created and (retained.since is None or row.at.timestamp() > retained.since)


__all__ = ["AUDITED", "LedgerSide", "TopicCount", "check_facts", "check_records", "strangers"]
