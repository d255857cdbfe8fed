"""The audit: a snapshot of the ledger, what the topics held after it, all checks over both."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from mia_events.digest import MemoryLine, QuestionLine, content_hash, run_digest
from ops.audit.batches import check_batches
from ops.audit.book import Book
from ops.audit.effects import check_effects
from ops.audit.findings import Findings
from ops.audit.heads import check_heads
from ops.audit.labels import count_labels
from ops.audit.learned import check_learned
from ops.audit.log import LogUnreachable, Retained, read_topics
from ops.audit.questions import check_questions
from ops.audit.rebuilt import check_rebuilt
from ops.audit.report import CannotAudit, OpenQuestion, Report, RunReport
from ops.audit.streams import check_streams
from ops.audit.topics import AUDITED, LedgerSide, TopicCount, check_facts, check_records, strangers
from ops.audit.versions import check_versions
from storage.postgres.audit import AuditReader, EventRow, History, RunRow
from storage.postgres.pool import Unavailable

_SHOWN_OPEN: Final = 20
#: The state of a run whose history lies in an archive: only its name and number are left here.
_PURGED: Final = "purged"
_NOT_ASKED: Final = "topics were not asked for"


async def audit(
    dsn: str,
    kafka: Mapping[str, Any] | None,
    run_name: str | None = None,
    *,
    closed: bool = False,
    labels: bool = False,
    prefix: str = "",
    keep: int = 20,
) -> Report:
    """Audit a run, or all, as the DSN's role (`mia_audit`).

    `kafka` are keyword arguments of any aiokafka client (None: topics are left out), `prefix` is
    that of the topics' names. `closed`: a question that is still open is a fault, whatever its
    run's state. `labels`: also count where gold values occur. `keep` faults of each check are kept.

    Raises:
        CannotAudit: the database does not answer or is not ours to read, or there is no such run.
    """
    began = time.monotonic()
    try:
        async with AuditReader.connect(dsn) as reader:
            books, runs = await _books(reader, run_name, labels=labels)
            findings = Findings(keep=keep)
            for book in books:
                with findings.of(book.run.name):
                    check_book(book, findings, closed=closed)
            log, unread = await _log(kafka, prefix)
            created = await reader.topics()
            side = await _ledger_side(reader, books, runs, log, created)
    except (Unavailable, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise CannotAudit(f"the ledger cannot be read: {error}") from error
    counts, facts = judge_topics(books, log, side, findings)
    return Report(
        runs=tuple(
            summarise(book, facts.get(book.run.name), labels=labels)
            for book in books
            if book.run.run_no > 0
        ),
        counts=dict(findings.counts),
        faults=tuple(findings.kept),
        topics=counts,
        topics_missing=tuple(name for name in AUDITED if log and name not in log),
        topics_unread=unread,
        wanted_topics=kafka is not None,
        seconds=round(time.monotonic() - began, 3),
    )


def check_book(book: Book, findings: Findings, *, closed: bool = False) -> None:
    """All checks of one run that need no topic."""
    check_streams(book, findings)
    check_heads(book, findings)
    check_questions(book, findings, closed=closed or book.ended)
    check_batches(book, findings)
    check_effects(book, findings)
    check_learned(book, findings)
    check_rebuilt(book, findings)
    check_versions(book, findings)


def judge_topics(
    books: Sequence[Book], log: Mapping[str, Retained], side: LedgerSide, findings: Findings
) -> tuple[tuple[TopicCount, ...], dict[str, int]]:
    """All checks of topics: what each holds, and how many facts of each run had to be there."""
    facts: dict[str, int] = {}
    for book in books if log else ():
        with findings.of(book.run.name):
            facts[book.run.name] = check_facts(book, log, side.created, findings)
    return check_records(log, side, findings), facts


async def _books(
    reader: AuditReader, run_name: str | None, *, labels: bool
) -> tuple[list[Book], tuple[RunRow, ...]]:
    async with reader.snapshot():
        runs = await reader.runs()
        chosen = [run for run in runs if run_name in (None, run.name)]
        if not chosen:
            known = ", ".join(run.name for run in runs if run.run_no > 0) or "none"
            raise CannotAudit(f"there is no run {run_name!r}; there are: {known}")
        if run_name is not None and chosen[0].state == _PURGED:
            raise CannotAudit(f"run {run_name!r} was purged: its archive holds what there was")
        there = [run for run in chosen if run.state != _PURGED]
        return [Book(await reader.history(run, labels=labels)) for run in there], runs


async def _log(kafka: Mapping[str, Any] | None, prefix: str) -> tuple[dict[str, Retained], str]:
    if kafka is None:
        return {}, _NOT_ASKED
    try:
        log = await read_topics(kafka, AUDITED, prefix=prefix)
    except LogUnreachable as error:
        return {}, f"Kafka does not answer: {error}"
    return log, "" if log else f"the broker has none of {', '.join(AUDITED)}"


async def _ledger_side(
    reader: AuditReader,
    books: Sequence[Book],
    runs: Sequence[RunRow],
    log: Mapping[str, Retained],
    created: Mapping[str, Any],
) -> LedgerSide:
    """What records are held against, also what was committed while topics were read."""
    events: dict[UUID, EventRow] = {row.id: row for book in books for row in book.history.events}
    unknown = strangers(log, events)
    late = await reader.events_named(
        [book.run.run_no for book in books], [r.wire.id for r in unknown if r.wire is not None]
    )
    events |= {row.id: row for row in late}
    return LedgerSide(
        events=events,
        audited={book.run.id for book in books},
        runs={run.run_no: run.id for run in runs},
        refused=await reader.letters_of([record.value_sha for record in unknown]),
        created=created,
    )


def digest_of(history: History) -> str:
    """The digest of a run's outcomes."""
    credits_ = Counter(credit.memory for credit in history.credits)
    wins = Counter(credit.memory for credit in history.credits if credit.won)
    questions = [
        QuestionLine(
            position=q.pos,
            source=q.source,
            row=q.row,
            pass_no=q.pass_no,
            status=q.status,
            official=q.official,
            answer=q.answer,
            grade=q.grade,
        )
        for q in history.questions
    ]
    memories = [
        MemoryLine(
            dedupe_key=m.dedupe_key,
            version=m.version,
            content=content_hash(question=m.question, text=m.text),
            outcome=m.outcome,
            from_gen=m.from_gen,
            until_gen=m.until_gen,
            uses=credits_[m.id] + m.brought_uses,
            wins=wins[m.id] + m.brought_wins,
        )
        for m in history.memories
    ]
    return run_digest(questions, memories)


def summarise(book: Book, facts: int | None = None, *, labels: bool = False) -> RunReport:
    """A run in numbers."""
    history, run = book.history, book.run
    open_ = [
        OpenQuestion(position=q.pos, id=q.id, status=_status(book, q.id))
        for q in history.questions
        if not q.closed
    ]
    return RunReport(
        name=run.name,
        mode=run.mode,
        state=run.state,
        digest=digest_of(history),
        accepted=len(history.questions),
        answered=sum(q.status == "answered" for q in history.questions),
        failed=sum(q.status == "failed" for q in history.questions),
        ended=len(history.questions) - len(open_),
        rollouts=len(history.rollouts),
        batches=len(history.batches),
        sealed_generation=run.sealed_gen,
        streams=len(book.streams),
        events=len(history.events),
        effects=len(history.effects),
        memories=len(history.memories),
        dead_letters=len(history.letters),
        erased=book.erased,
        unacknowledged=len(history.outbox),
        facts=facts,
        open=tuple(open_[:_SHOWN_OPEN]),
        labels=count_labels(book) if labels else None,
    )


def _status(book: Book, question: UUID) -> str:
    stream = book.streams.get(question)
    return stream.status or "unknown" if stream is not None else "unknown"


def to_json(report: Report) -> bytes:
    """The report as JSON, with its verdict."""
    told = msgspec.to_builtins(report, str_keys=True)
    verdict = "clean" if report.clean else "faults"
    return msgspec.json.encode(
        {"verdict": verdict, "complete": report.complete, "repeats": report.repeats, **told}
    )


__all__ = ["audit", "check_book", "digest_of", "judge_topics", "summarise", "to_json"]
