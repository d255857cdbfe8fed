"""Topics against the ledger: every record an event, every acknowledged fact there."""

from collections.abc import Callable
from datetime import timedelta
from hashlib import sha256

import msgspec
import pytest

from ops.audit.auditor import judge_topics
from ops.audit.book import Book
from ops.audit.findings import Check, Findings
from ops.audit.log import LogRecord, Retained, Wire
from ops.audit.report import Report
from ops.audit.topics import LedgerSide, TopicCount, strangers
from storage.postgres.audit import EventRow
from tests.support.audit_history import LETTER, QUESTIONS, RUN, START, event, rollout, whole_run

new = msgspec.structs.replace
HISTORY = whole_run()
PLANNED = event(HISTORY, rollout(0, 0), 1)
ANSWERED = event(HISTORY, QUESTIONS[0], 7)
DEAD = event(HISTORY, LETTER, 1)


def record(row: EventRow, topic: str, offset: int = 0) -> LogRecord:
    """The record of an event."""
    wire = Wire(
        id=row.id, type=row.type, run=RUN, stream=row.stream, seq=row.seq, occurred_at=row.at,
        cause=row.cause, correlation=row.correlation,
    )  # fmt: skip
    value = sha256(row.id.bytes).digest()
    return LogRecord(
        topic=topic, partition=0, offset=offset, key=str(row.stream).encode(), wire=wire,
        body_sha=row.body_sha, value_sha=value,
    )  # fmt: skip


WHOLE = {
    "mia.plan": Retained(topic="mia.plan", records=(record(PLANNED, "mia.plan"),)),
    "mia.answer": Retained(topic="mia.answer", records=(record(ANSWERED, "mia.answer"),)),
    "mia.dead-letter": Retained(
        topic="mia.dead-letter", records=(record(DEAD, "mia.dead-letter"),)
    ),
}
SIDE = LedgerSide(
    events={row.id: row for row in HISTORY.events},
    audited={RUN},
    runs={1: RUN},
    refused=set(),
    created=dict.fromkeys(WHOLE, START),
)


def judge(
    log: dict[str, Retained], side: LedgerSide = SIDE, book: Book | None = None
) -> tuple[set[Check], dict[str, TopicCount], int]:
    """The checks that fail, the counts by topic and the facts that were demanded."""
    findings = Findings()
    counts, facts = judge_topics([book or Book(HISTORY)], log, side, findings)
    return set(findings.counts), {count.topic: count for count in counts}, facts.get("r", 0)


def with_records(topic: str, *records: LogRecord) -> dict[str, Retained]:
    """Other contents of one topic."""
    return {**WHOLE, topic: Retained(topic=topic, records=records)}


def test_whole_topics_are_whole() -> None:
    """One record of each; both outbound facts had to be there."""
    checks, counts, facts = judge(WHOLE)
    assert (set(), 2) == (checks, facts)
    assert [(1, 1, 0)] * 3 == [(c.records, c.events, c.repeats) for c in counts.values()]


@pytest.mark.parametrize(
    "damage",
    [
        lambda one: new(one, wire=None),
        lambda one: new(one, wire=new(one.wire, id=RUN)),
        lambda one: new(one, wire=new(one.wire, seq=9)),
        lambda one: new(one, wire=new(one.wire, stream=RUN)),
        lambda one: new(one, wire=new(one.wire, type="rollout.planned")),
        lambda one: new(one, wire=new(one.wire, cause=None)),
        lambda one: new(one, wire=new(one.wire, correlation=None)),
        lambda one: new(one, wire=new(one.wire, occurred_at=START)),
        lambda one: new(one, wire=new(one.wire, run=LETTER)),
        lambda one: new(one, body_sha=b"\x00" * 32),
        lambda one: new(one, key=b"other"),
        lambda one: new(one, topic="mia.judge"),
    ],
)
def test_a_record_that_is_no_event_of_the_ledger_is_found(
    damage: Callable[[LogRecord], LogRecord],
) -> None:
    """Whatever differs: header, key, payload or topic."""
    log = with_records("mia.plan", damage(record(PLANNED, "mia.plan")))
    assert {Check.RECORD} == judge(log)[0]


def test_what_was_sent_twice_is_counted() -> None:
    """It is no fault: a topic may show a record twice."""
    again = (record(PLANNED, "mia.plan"), record(PLANNED, "mia.plan", 1))
    checks, counts, _ = judge(with_records("mia.plan", *again))
    assert (set(), 2, 1, 1) == (
        checks, counts["mia.plan"].records, counts["mia.plan"].events, counts["mia.plan"].repeats,
    )  # fmt: skip


def test_a_record_that_became_a_dead_letter_is_refused() -> None:
    """Anyone may write into a topic; what was refused is accounted for."""
    stranger = new(record(PLANNED, "mia.plan"), wire=None)
    log = with_records("mia.plan", stranger)
    assert [stranger] == strangers(log, SIDE.events)
    checks, counts, _ = judge(log, new(SIDE, refused={stranger.value_sha}))
    assert (set(), 1) == (checks, counts["mia.plan"].refused)


def test_records_of_runs_that_were_not_audited_are_left_alone() -> None:
    """They are counted, and not held against this run."""
    other = record(PLANNED, "mia.plan")
    assert other.wire is not None
    other = new(other, wire=new(other.wire, run=LETTER, id=LETTER))
    checks, counts, _ = judge(with_records("mia.plan", other), new(SIDE, runs={1: RUN, 2: LETTER}))
    assert (set(), 1) == (checks, counts["mia.plan"].others)


@pytest.mark.parametrize("topic", ["mia.answer", "mia.dead-letter"])
def test_an_acknowledged_fact_that_is_missing_is_found(topic: str) -> None:
    """The broker has said that it has it."""
    assert {Check.FACT} == judge(with_records(topic))[0]


def test_facts_that_cannot_be_there_are_not_demanded() -> None:
    """Not yet acknowledged; older than the topic; beyond retention; of a topic that is gone."""
    gone = with_records("mia.answer")
    waiting = Book(new(HISTORY, outbox=frozenset({ANSWERED.id})))
    late = new(SIDE, created={**SIDE.created, "mia.answer": START + timedelta(days=1)})
    trimmed = {**gone, "mia.answer": new(gone["mia.answer"], since=ANSWERED.at.timestamp() + 1)}
    without = {name: kept for name, kept in WHOLE.items() if name != "mia.answer"}
    told = [judge(gone, book=waiting), judge(gone, late), judge(trimmed), judge(without)]
    assert [(set(), 1)] * 4 == [(checks, facts) for checks, _, facts in told]


def test_a_generation_without_training_tells_nobody_of_a_policy() -> None:
    """The same event goes out where training was decided on, and only there."""
    sealed = [row for row in HISTORY.events if row.type == "learner.sealed"]
    empty = {**WHOLE, "mia.policy": Retained(topic="mia.policy", records=())}
    side = new(SIDE, created=dict.fromkeys(empty, START))
    assert sealed
    assert (set(), 2) == judge(empty, side)[::2]


def test_facts_within_retention_are_demanded() -> None:
    """A partition that lost its oldest records must still hold the newer ones."""
    trimmed = new(WHOLE["mia.answer"], records=(), since=ANSWERED.at.timestamp() - 1)
    assert {Check.FACT} == judge({**WHOLE, "mia.answer": trimmed})[0]


def test_a_topic_of_unknown_age_is_not_judged() -> None:
    """Nobody noted when it was made: what it must hold is not known, and the report says so."""
    side = new(SIDE, created={})
    _, counts, facts = judge(WHOLE, side)
    assert (0, False) == (facts, counts["mia.answer"].judged)


@pytest.mark.parametrize(
    "code, counts, unread, wanted",
    [
        (0, {}, "", True),
        (0, {}, "topics were not asked for", False),
        (1, {Check.FACT: 1}, "", True),
        (1, {Check.CHAIN: 1}, "Kafka does not answer", True),
        (2, {}, "Kafka does not answer", True),
    ],
)
def test_the_exit_code_says_what_is_known(
    code: int, counts: dict[Check, int], unread: str, wanted: bool
) -> None:
    """A fault is a fault; without one, what could not be read forbids a clean verdict."""
    report = Report(runs=(), counts=counts, faults=(), topics_unread=unread, wanted_topics=wanted)
    assert code == report.exit_code
