"""The auditor over a real ledger and real topics: clean as driven, each planted fault found."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from mia_events import ids, topics
from mia_events.lifecycle import Kind
from mia_events.steps import Manifest, MemoryWrite, Order
from ops.audit import CannotAudit, Check, Report, audit
from schemas import events as ev
from schemas.envelope import encode_wire
from schemas.events import MemoryUse
from storage.ports import Emitted, PendingCommit
from storage.postgres.labels import PostgresLabels
from storage.postgres.ledger import PostgresLedger
from storage.postgres.memory import PostgresMemory
from storage.postgres.migrate import migrate
from storage.postgres.policies import PostgresPolicies
from storage.postgres.roles import ROLES, ensure_roles, role_dsn
from storage.postgres.runs import PostgresRuns
from tests.contract.workbench import Workbench, candidate
from tests.support.ports import Ports
from tests.support.stack import StackThread

pytestmark = pytest.mark.integration

BATCHED, LIVE = "batched", "live"
_PASSWORD = uuid.uuid4().hex


@dataclass(frozen=True)
class Driven:
    """A database in which two runs were driven, as the superuser and as the auditor."""

    admin: str
    dsn: str

    def of(self, database: str) -> "Driven":
        """The same in another database."""
        path = f"/{database}"
        return Driven(
            *(urlsplit(dsn)._replace(path=path).geturl() for dsn in (self.admin, self.dsn))
        )

    async def execute(self, statement: str) -> None:
        """Change something, as the superuser."""
        connection = await asyncpg.connect(self.admin)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@asynccontextmanager
async def bench(dsn: str) -> AsyncIterator[Workbench]:
    """A workbench over a prepared database, left as it is at the end."""
    ledger = await PostgresLedger.open(dsn, sealed=True, size=2)
    pool = ledger.pool

    async def events(_: UUID) -> list[Any]:
        return []

    yield Workbench(
        Ports(
            name="postgres", ledger=ledger, memory=PostgresMemory(pool),
            labels=PostgresLabels(pool), policies=PostgresPolicies(pool),
            runs=PostgresRuns(pool), events=events,
        )
    )  # fmt: skip
    await ledger.close()


@pytest.fixture
async def driven(database: str) -> Driven:
    """Give a batch run (one batch learned from, one in progress) and a live run that ended."""
    connection = await asyncpg.connect(database)
    await ensure_roles(connection, dict.fromkeys(ROLES, _PASSWORD))
    await migrate(connection)
    await connection.close()
    async with bench(database) as workbench:
        await workbench.ledger.topics_created(topics.ALL)
        await drive_batches(workbench)
        await drive_live(workbench)
    return Driven(database, role_dsn(database, "mia_audit", _PASSWORD))


async def new_run(workbench: Workbench, name: str, manifest: Manifest) -> int:
    """A run with a name."""
    run_no = await workbench.ports.runs.create(name, manifest)
    workbench.run_numbers.append(run_no)
    return run_no


async def drive_batches(workbench: Workbench) -> None:
    """Two batches of two: the first is learned from, of the second one question is on its way."""
    manifest = Manifest(mode="batch", rollouts=2, batch_size=2)
    run_no = await new_run(workbench, BATCHED, manifest)
    await workbench.accept(run_no, *"abcd")
    view = await workbench.ledger.run(run_no)
    first, left = await workbench.question(run_no, "a"), candidate("key", "do this")
    end = ev.QuestionConsolidated(grade="correct", memories=(left,))
    await through(workbench, first, end=end)
    await through(workbench, await workbench.question(run_no, "b"), fails=True)
    learned = MemoryWrite(
        scope=view.scope, generation=1, candidates=((first, left),), uses=(),
    )  # fmt: skip
    sealed = ev.LearnerSealed(number=0, generation=1, training="none_configured")
    await workbench.step(ids.learner_id(view.id), sealed, memory=learned)
    question = await workbench.question(run_no, "c")
    rollouts = await fan_out_on(workbench, question, generation=1)
    await workbench.plan(*rollouts)
    await workbench.choose(question, rollouts)
    await workbench.labels.seal(run_no, question, "gold", source="test")


async def drive_live(workbench: Workbench) -> None:
    """Two questions, each writing its own generation; the second uses the memory of the first."""
    run_no = await new_run(workbench, LIVE, Manifest(rollouts=1))
    await workbench.accept(run_no, "a", "b")
    scope = (await workbench.ledger.run(run_no)).scope
    used = MemoryUse(memory=ids.memory_id(scope, "k"), won=True)
    for row, uses in (("a", ()), ("b", (used,))):
        question = await workbench.question(run_no, row)
        left = candidate("k" if row == "a" else "l", "do this")
        write = MemoryWrite(
            scope=scope, generation=None, candidates=((question, left),),
            uses=tuple((question, use) for use in uses),
        )  # fmt: skip
        end = ev.QuestionConsolidated(grade="correct", memories=(left,), uses=uses)
        await through(workbench, question, g=1, end=end, memory=write)
    await workbench.ports.runs.close(LIVE)
    await workbench.ledger.advance(run_no)


async def fan_out_on(workbench: Workbench, question: UUID, *, generation: int) -> list[UUID]:
    """Open two rollouts on a generation."""
    rollouts = [ids.rollout_id(question, number) for number in range(2)]
    orders = [
        Order(
            kind=Kind.ROLLOUT,
            stream=rollout,
            event=ev.RolloutOpened(number=number, generation=generation),
            number=number,
        )
        for number, rollout in enumerate(rollouts)
    ]
    await workbench.step(question, ev.QuestionFannedOut(rollouts=2), *orders)
    return rollouts


async def through(
    workbench: Workbench,
    question: UUID,
    *,
    g: int = 2,
    fails: bool = False,
    end: ev.QuestionConsolidated | None = None,
    memory: MemoryWrite | None = None,
) -> None:
    """A question from its opening to its end, with an effect recorded on the way."""
    rollouts = await workbench.fan_out(question, g)
    claimed = await workbench.claimed(rollouts[0])
    step = await workbench.resolve(claimed, ev.RolloutPlanned(plan="p"))
    effects = (await workbench.effect(claimed, "plan"), await workbench.effect(claimed, "more", 1))
    await workbench.commit(PendingCommit(effects=effects, step=step))
    if rollouts[1:]:
        await workbench.plan(*rollouts[1:])
    await workbench.choose(question, rollouts)
    if fails:
        await workbench.fail(rollouts[0])
        chosen = Order(
            kind=Kind.ROLLOUT, stream=rollouts[1], event=ev.RolloutChosen(role="candidate"),
            when=frozenset({"planned"}),
        )  # fmt: skip
        await workbench.step(question, ev.QuestionRerouted(candidate=1), chosen)
        await workbench.fail(rollouts[1])
        await workbench.step(question, ev.QuestionFailed(reason="no_rollout_left"))
    else:
        await workbench.propose(rollouts[0])
        await workbench.answer(question, rollouts)
        for rollout in rollouts[1:]:
            await workbench.finish(rollout)
        await workbench.judge(rollouts[0])
    end = end or ev.QuestionConsolidated(grade="unjudged" if fails else "correct")
    await workbench.step(question, end, memory=memory)


def told(report: Report) -> Sequence[str]:
    """The faults in words."""
    return [f"{fault.check}: {fault.what}" for fault in report.faults]


async def test_a_run_that_nobody_touched_is_clean(driven: Driven) -> None:
    """Each question ended once, one is still on its way and one waits: open, not faulty."""
    report = await audit(driven.dsn, None)
    assert [] == told(report)
    batched, live = report.run(BATCHED), report.run(LIVE)
    assert (4, 1, 1, 2) == (batched.accepted, batched.answered, batched.failed, batched.ended)
    assert ["executing", "opening"] == [question.status for question in batched.open]
    assert ("ended", 2, 2, 2) == (live.state, live.accepted, live.ended, live.memories)
    assert (2, 0, "topics were not asked for") == (
        len(report.runs), report.exit_code, report.topics_unread,
    )  # fmt: skip


async def test_the_digest_is_of_the_run_and_stays(driven: Driven) -> None:
    """Auditing again, or one run alone, says the same."""
    report, alone = await audit(driven.dsn, None), await audit(driven.dsn, None, LIVE)
    assert report.run(LIVE).digest == alone.run(LIVE).digest != report.run(BATCHED).digest


async def test_an_open_question_is_a_fault_when_it_should_have_ended(driven: Driven) -> None:
    """On demand only."""
    report = await audit(driven.dsn, None, BATCHED, closed=True)
    assert ({Check.ENDED_ONCE: 2}, 1) == (report.counts, report.exit_code)


#: What an intruder with every right does, and what it is found by.
FAULTS = [
    (
        "a byte of a payload",
        (
            "UPDATE event SET body = set_byte(body, 20, (get_byte(body, 20) + 1) % 256)"
            " WHERE type = 'question.answered' AND run_no = 1"
        ),
        Check.CHAIN,
    ),
    (
        "a payload with its digest",
        (
            "UPDATE event SET body = forged, body_sha = sha256(forged) FROM (SELECT stream AS s,"
            " seq AS n, replace(convert_from(body, 'UTF8'), 'correct', 'unjudged')::bytea AS forged"
            " FROM event WHERE type = 'rollout.judged' AND run_no = 1) AS f"
            " WHERE stream = s AND seq = n"
        ),
        Check.CHAIN,
    ),
    (
        "a time",
        "UPDATE event SET at = at - interval '1 second' WHERE type = 'question.asked'",
        Check.CHAIN,
    ),
    (
        "an event deleted",
        "DELETE FROM event WHERE type = 'turn.answered' AND run_no = 1",
        Check.SEQUENCE,
    ),
    (
        "the last event deleted",
        "DELETE FROM event WHERE type = 'question.consolidated' AND run_no = 1",
        Check.PROJECTION,
    ),
    (
        "an event repeated at the end",
        (
            "INSERT INTO event SELECT run_no, stream, seq + 1, gen_random_uuid(), kind, type,"
            " topic, at, cause, correlation, claim, attempt, body_sha, hash, body FROM event"
            " WHERE type = 'question.consolidated' AND run_no = 1"
        ),
        Check.ENDED_ONCE,
    ),
    (
        "a step done again",
        (
            "INSERT INTO event SELECT run_no, stream, seq + 1, gen_random_uuid(), kind, type,"
            " topic, at, cause, correlation, claim + 1000, attempt, body_sha, hash, body FROM event"
            " WHERE type = 'rollout.judged' AND run_no = 1"
        ),
        Check.DONE_ONCE,
    ),
    (
        "a claim used twice",
        "UPDATE event SET claim = 1 WHERE type = 'rollout.planned' AND run_no = 1",
        Check.CLAIM,
    ),
    ("an id", "UPDATE event SET id = gen_random_uuid() WHERE type = 'run.created'", Check.IDENTITY),
    ("a topic", "UPDATE event SET topic = NULL WHERE type = 'rollout.opened'", Check.ROUTE),
    ("a counter", "UPDATE question SET ended = ended + 1 WHERE closed", Check.JOIN),
    ("an answer", "UPDATE question SET answer = 'other' WHERE official = 0", Check.PROJECTION),
    ("a grade", "UPDATE rollout SET outcome = 'incorrect' WHERE phase = 3", Check.PROJECTION),
    ("a run's count", "UPDATE run SET ended = ended - 1 WHERE name = 'batched'", Check.PROJECTION),
    ("a head", "UPDATE active SET head = sha256(head)", Check.HEAD),
    ("a stream lost", "DELETE FROM active WHERE kind = 2", Check.HEAD),
    ("a rollout lost", "DELETE FROM rollout WHERE run_no = 2", Check.KINSHIP),
    ("a batch's size", "UPDATE batch SET size = size - 1 WHERE number = 0", Check.BATCH),
    ("a pin", "UPDATE batch SET generation = 0 WHERE number = 1", Check.GENERATION),
    ("an effect lost", "DELETE FROM effect WHERE ordinal = 0", Check.EFFECT),
    ("an effect of nothing", "UPDATE effect SET event_id = gen_random_uuid()", Check.EFFECT),
    ("a label's reply", "UPDATE effect SET kind = 'label' WHERE ordinal = 0", Check.SEALED),
    ("a memory's age", "UPDATE memory SET from_gen = from_gen + 5", Check.MEMORY),
    ("a credit", "DELETE FROM memory_credit", Check.MEMORY),
]


async def test_every_planted_fault_is_found(driven: Driven, stack: StackThread) -> None:
    """Each in a copy of the same database."""
    missed = []
    admin = Driven(stack.admin_dsn, "")
    for number, (name, statement, check) in enumerate(FAULTS):
        copy = f"{urlsplit(driven.admin).path[1:]}_{number}"
        await admin.execute(f"CREATE DATABASE {copy} TEMPLATE {urlsplit(driven.admin).path[1:]}")
        damaged = driven.of(copy)
        await damaged.execute(statement)
        report = await audit(damaged.dsn, None)
        await admin.execute(f"DROP DATABASE {copy} WITH (FORCE)")
        if check not in report.counts:
            missed.append((name, check, told(report)))
    assert [] == missed


async def test_an_erased_payload_is_no_fault(driven: Driven) -> None:
    """Its chain still verifies; it is counted."""
    await driven.execute("UPDATE event SET body = NULL WHERE type = 'question.asked'")
    report = await audit(driven.dsn, None)
    assert ([], 6) == (told(report), sum(run.erased for run in report.runs))


async def test_the_auditor_cannot_write(driven: Driven) -> None:
    """Neither its role nor its connection allows it."""
    connection = await asyncpg.connect(driven.dsn)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute("UPDATE run SET state = 'ended'")
    await connection.close()


async def test_what_cannot_be_audited_is_said(driven: Driven) -> None:
    """No such run; a database that is not there; one without the schema."""
    for dsn, run in (
        (driven.dsn, "nobody"),
        (driven.of("nowhere").dsn, None),
        (driven.of("postgres").dsn, None),
    ):
        with pytest.raises(CannotAudit):
            await audit(dsn, None, run)


async def test_a_purged_run_is_left_to_its_archive(driven: Driven) -> None:
    """Only its name and number are there; the other run is audited as ever."""
    await driven.execute(
        "DELETE FROM rollout WHERE run_no = 2; DELETE FROM question WHERE run_no = 2;"
        "DELETE FROM event WHERE run_no = 2; UPDATE run SET state = 'purged' WHERE run_no = 2"
    )
    report = await audit(driven.dsn, None)
    assert ([], [BATCHED]) == (told(report), [run.name for run in report.runs])
    with pytest.raises(CannotAudit, match="archive"):
        await audit(driven.dsn, None, LIVE)


async def test_labels_are_counted_on_demand(driven: Driven) -> None:
    """The gold value was given to nobody."""
    labels = (await audit(driven.dsn, None, BATCHED, labels=True)).run(BATCHED).labels
    assert labels is not None
    assert (1, 0, 0) == (labels.labels, labels.events, labels.effects)


# --- topics --------------------------------------------------------------------------------------


async def emitted(driven: Driven) -> list[tuple[Emitted, UUID]]:
    """Every event that has to be in a topic, with its run's id."""
    connection = await asyncpg.connect(driven.admin)
    rows = await connection.fetch(
        "SELECT e.run_no, e.stream, e.seq, e.id, e.kind, e.type, e.body, e.at, e.cause,"
        " e.correlation, coalesce(o.topic, e.topic) AS topic, r.id AS run FROM event AS e"
        " JOIN run AS r USING (run_no) LEFT JOIN outbox AS o ON o.event_id = e.id"
        " WHERE coalesce(o.topic, e.topic) IS NOT NULL"
    )
    await connection.close()
    found = []
    for row in rows:
        columns = dict(row)
        run = columns.pop("run")
        found.append((Emitted(**{**columns, "kind": Kind(columns["kind"])}), run))
    return found


async def publish(servers: str, prefix: str, records: list[tuple[str, bytes, bytes]]) -> None:
    """Send (topic, key, value) and wait for each."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await producer.start()
    for topic, key, value in records:
        await producer.send_and_wait(prefix + topic, value=value, key=key)
    await producer.stop()


@pytest.fixture
async def published(driven: Driven, bootstrap_servers: str, topic_prefix: str) -> dict[str, Any]:
    """Give aiokafka's options of a broker that has all of it, acknowledged."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic_prefix + name, 2, 1) for name in topics.ALL])
    await admin.close()
    events = await emitted(driven)
    await publish(
        bootstrap_servers,
        topic_prefix,
        [(e.topic, str(e.stream).encode(), encode_wire(e, run=run)) for e, run in events],
    )
    await driven.execute("DELETE FROM outbox")
    return {"bootstrap_servers": bootstrap_servers}


async def test_topics_that_hold_the_ledger_are_clean(
    driven: Driven, published: dict[str, Any], topic_prefix: str
) -> None:
    """Every record is an event; every answer is there."""
    report = await audit(driven.dsn, published, prefix=topic_prefix)
    assert ([], 0, "") == (told(report), report.exit_code, report.topics_unread)
    assert [2, 2] == [report.run(name).facts for name in (BATCHED, LIVE)]
    assert 4 == next(topic.events for topic in report.topics if topic.topic == topics.ANSWER)


async def test_strange_and_repeated_records_are_told_apart(
    driven: Driven, published: dict[str, Any], topic_prefix: str
) -> None:
    """Sent twice: counted. Not as in the ledger: a fault. External topics are not compared."""
    event, run = next((e, run) for e, run in await emitted(driven) if e.topic == topics.JUDGE)
    key, value = str(event.stream).encode(), encode_wire(event, run=run)
    await publish(
        published["bootstrap_servers"],
        topic_prefix,
        [
            (topics.JUDGE, key, value),
            (topics.JUDGE, key, b"{"),
            (topics.JUDGE, key, value.replace(str(event.id).encode(), str(uuid.uuid4()).encode())),
            (topics.PLAN, key, value),
            (topics.QUESTION, key, b"{"),
        ],
    )
    report = await audit(driven.dsn, published, prefix=topic_prefix)
    assert ({Check.RECORD: 3}, 1, 1) == (report.counts, report.repeats, report.exit_code)


async def test_a_lost_answer_is_found(
    driven: Driven, bootstrap_servers: str, topic_prefix: str
) -> None:
    """The outbox is empty, so the broker had it; the topic, made before, does not."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(topic_prefix + topics.ANSWER, 2, 1)])
    await admin.close()
    kafka = {"bootstrap_servers": bootstrap_servers}
    assert {} == (await audit(driven.dsn, kafka, prefix=topic_prefix)).counts
    await driven.execute("DELETE FROM outbox")
    assert {Check.FACT: 4} == (await audit(driven.dsn, kafka, prefix=topic_prefix)).counts
    await driven.execute("UPDATE topic SET created_at = now()")
    assert {} == (await audit(driven.dsn, kafka, prefix=topic_prefix)).counts


async def test_a_silent_broker_is_said(driven: Driven, free_port: int) -> None:
    """The ledger is judged all the same; the verdict is not a clean one."""
    kafka = {"bootstrap_servers": f"127.0.0.1:{free_port}"}
    report = await audit(driven.dsn, kafka)
    assert (True, 2) == (report.clean, report.exit_code)
    assert report.topics_unread.startswith("Kafka does not answer")
