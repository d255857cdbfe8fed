"""Cancelling ends what is open at once, without a worker, wherever it stands."""

import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID

import pytest

from consumers import prompts
from consumers.plan.fan_out import fan_out
from consumers.runner.context import Context
from mia_events import ids
from mia_events.commits import Guard, step_commit
from mia_events.steps import Manifest, Step
from ops.cancel import cancel_question, cancel_run
from ops.errors import Refused
from schemas.envelope import encode_payload
from schemas.events import QuestionAsked
from storage.ports import NewQuestion, PendingCommit
from storage.postgres.ledger import PostgresLedger
from storage.postgres.runs import PostgresRuns
from storage.postgres.watch import PostgresWatch
from tests.support.ports import prepare_postgres


@dataclass
class Bench:
    """A run with one question fanned out, one just opened, and one that waits."""

    ledger: PostgresLedger
    runs: PostgresRuns
    name: str
    run_no: int
    questions: list[UUID]

    async def told(self) -> list[tuple[str, str | None, bool]]:
        rows = await PostgresWatch(self.ledger.pool).questions(self.run_no)
        return [(row.status, row.reason, row.closed) for row in rows]

    async def types(self, question: UUID) -> list[str]:
        rows = await self.ledger.pool.fetch(
            "SELECT type FROM event WHERE correlation = $1 ORDER BY at, stream, seq", question
        )
        return [row["type"] for row in rows]


@pytest.fixture
async def bench(database: str) -> AsyncIterator[Bench]:
    """Give such a run on a fresh database, in which no worker works."""
    await prepare_postgres(database)
    ledger = await PostgresLedger.open(database, size=2)
    runs, name = PostgresRuns(ledger.pool), f"run-{uuid.uuid4().hex[:8]}"
    manifest = Manifest(
        mode="batch", batch_size=5, rollouts=2, max_in_flight=2, prompts=prompts.load()
    )
    run_no = await runs.create(name, manifest)
    view, _ = await ledger.run_named(name)
    new = [_question(view.id, row) for row in ("a", "b", "c")]
    await ledger.accept(run_no, new)
    bench = Bench(ledger, runs, name, run_no, [question.id for question in new])
    await _fan_out(ledger, run_no, bench.questions[0])
    yield bench
    await ledger.close()


def _question(run: UUID, row: str) -> NewQuestion:
    body = encode_payload(QuestionAsked(text=f"What is {row}?", source="test", row=row))
    return NewQuestion(
        id=ids.question_id(run, "test", row),
        source="test",
        row=row,
        pass_no=0,
        position=None,
        body=body,
    )


async def _fan_out(ledger: PostgresLedger, run_no: int, question: UUID) -> None:
    (found,) = await ledger.load(run_no, question)
    task = await Context(ledger).task(found)
    step: Step | None = None
    try:
        next(fan_out(task))
    except StopIteration as end:
        step = end.value
    assert step is not None
    commit = step_commit(task, step, claim=0, attempt=0, guard=Guard.VERSION)
    result = await ledger.commit([PendingCommit(step=commit)], lease_s=1)
    assert ("committed",) == result.outcomes


@pytest.mark.parametrize("number", [0, 1, 2])
async def test_a_question_is_cancelled_wherever_it_stands(bench: Bench, number: int) -> None:
    """Fanned out, just opened or still waiting: it fails as cancelled, once; others go on."""
    question = bench.questions[number]
    await cancel_question(bench.ledger, bench.runs, question)
    told = await bench.told()
    assert ("failed", "cancelled") == told[number][:2]
    assert 1 == [status for status, _, _ in told].count("failed")
    assert 1 == (await bench.types(question)).count("question.failed")
    assert () == await bench.runs.open_rollouts(question)


async def test_a_question_that_has_its_end_is_not_cancelled_again(bench: Bench) -> None:
    """An end is final."""
    await cancel_question(bench.ledger, bench.runs, bench.questions[0])
    with pytest.raises(Refused, match="has its end already"):
        await cancel_question(bench.ledger, bench.runs, bench.questions[0])


async def test_a_cancelled_run_takes_everything_open_with_it(bench: Bench) -> None:
    """Every accepted question ends exactly once, no stream stays behind, and it can be told why."""
    assert 3 == await cancel_run(bench.ledger, bench.runs, bench.name)
    assert [("failed", "cancelled", True)] * 3 == await bench.told()
    for question in bench.questions:
        types = await bench.types(question)
        assert (1, 1) == (types.count("question.failed"), types.count("question.consolidated"))
    left = await bench.ledger.pool.fetchval("SELECT count(*) FROM active")
    assert 0 == left
    (summary,) = await bench.runs.list()
    assert ("ended", 3, 3) == (summary.state, summary.accepted, summary.ended)


async def test_cancelling_a_run_can_be_taken_up_again(bench: Bench) -> None:
    """Whoever died in the middle left a run that stands still: the next cancel finishes it."""
    await bench.runs.pause(bench.name)
    await bench.runs.close(bench.name)
    await cancel_question(bench.ledger, bench.runs, bench.questions[2])
    assert 3 == await cancel_run(bench.ledger, bench.runs, bench.name)
    assert [("failed", "cancelled", True)] * 3 == await bench.told()


async def test_a_woken_question_that_nobody_ends_is_overdue(bench: Bench) -> None:
    """Should the caller die between waking and ending it, a sweeper's timer fires."""
    await bench.runs.wake(bench.questions[2])
    assert [bench.questions[2]] == [due.stream for due in await bench.ledger.overdue(limit=9)]
