"""What a run's report counts, and what a question's story tells, over a history made by hand."""

from collections.abc import AsyncIterator

import pytest

from mia_events.commits import Guard
from mia_events.steps import Manifest
from ops.following import in_order, outcome_of, told
from ops.report import figures_of
from schemas import events as ev
from storage.ports import PendingCommit
from storage.postgres.gauges import PostgresGauges
from storage.postgres.history import PostgresHistory
from storage.postgres.ledger import PostgresLedger
from storage.postgres.summary import PostgresSummary
from tests.contract.workbench import Workbench
from tests.support.ports import make_postgres_ports


@pytest.fixture
async def bench(prepared: str) -> AsyncIterator[Workbench]:
    """Give the Postgres adapters."""
    async with make_postgres_ports(prepared) as adapters:
        yield Workbench(adapters)


def _pool(bench: Workbench) -> PostgresLedger:
    assert isinstance(bench.ledger, PostgresLedger)
    return bench.ledger


async def test_figures_are_those_of_the_history(bench: Workbench) -> None:
    """Three questions: one right with a sibling, one failed, one that waits for its first step."""
    run = await bench.run(Manifest(rollouts=2), questions=3)
    right, failed = await bench.question(run, "0"), await bench.question(run, "1")
    await bench.labels.seal(run, right, "An A", source="file")
    await bench.labels.seal(run, failed, "B", source="file")
    rollouts = await bench.fan_out(right, 2)
    await bench.plan(*rollouts)
    await bench.choose(right, rollouts)
    await bench.step(rollouts[0], ev.TurnToolCalled(turn=1, text="t", tool="search"))
    await bench.step(rollouts[0], ev.ToolReturned(turn=1, ok=True, observation="o"))
    claimed = await bench.claimed(rollouts[0])
    effect = await bench.effect(claimed, "thought")
    step = await bench.resolve(claimed, ev.TurnAnswered(turn=2, text="t", answer="a"))
    await bench.commit(PendingCommit(effects=(effect,), step=step))
    await bench.step(rollouts[0], ev.RolloutProposed(answer="a"))
    await bench.answer(right, rollouts)
    await bench.finish(rollouts[1])
    judged = ev.RolloutJudged(grade="correct", judge="j", parts={"em": 1.0, "f1": 1.0})
    await bench.step(rollouts[0], judged)
    await bench.step(right, ev.QuestionConsolidated(grade="correct"))
    opened = await bench.stand(failed)
    ending = await bench.resolve(opened, ev.QuestionFailed(reason="timed_out"), guard=Guard.VERSION)
    assert ("committed",) == (await bench.commit(PendingCommit(step=ending))).outcomes

    view = await bench.ledger.run(run)
    figures = figures_of(await PostgresSummary(_pool(bench).pool).counts(view))
    questions = figures.questions
    assert (3, 1, 1, {"timed_out": 1}) == (
        questions.accepted, questions.answered, questions.failed, questions.reasons
    )  # fmt: skip
    supervised, other = sorted(figures.judges, key=lambda judge: judge.kind)
    assert ("supervised", 1.0, 1) == (supervised.kind, supervised.accuracy, supervised.rollouts)
    assert (0, 1) == (other.graded, other.rollouts_correct)
    assert {"search": 1} == figures.tool_calls
    assert 3 == figures.turns
    (spent,) = figures.tokens
    assert ("execute", 1) == (spent.stage, spent.calls)
    assert {"plan", "execute", "tool-call", "reflect", "judge", "consolidate"} == {
        time.stage for time in figures.times
    }
    assert all(time.p50_s >= 0 for time in figures.times)


async def test_a_story_has_every_event_once_and_in_order(bench: Workbench) -> None:
    """The question and its attempts, each numbered without a gap, from any place on."""
    run = await bench.run(Manifest(rollouts=2), questions=1)
    question = await bench.question(run, "0")
    await bench.through(question, 2)
    history = PostgresHistory(_pool(bench).pool, sealed=True)
    events = in_order(await history.steps(run, question))
    for slot in (0, 1, 2):
        numbers = [event.seq for event in events if event.slot == slot]
        assert list(range(1, len(numbers) + 1)) == numbers
    assert ("question.asked", "question.consolidated") == (events[0].type, events[-1].type)
    rest = await history.steps(run, question, (3, 1))
    assert {event.id for event in rest} == {
        event.id for event in events if event.seq > (3, 1, 0)[event.slot]
    }
    found = await history.event(events[-1].id)
    assert found is not None
    assert (run, told(events[-1])) == (found[0], told(found[2]))
    state = await history.question(question)
    assert state is not None
    outcome = await outcome_of(history, state)
    assert ("answered", True, "a", "correct") == tuple(
        outcome[name] for name in ("status", "ended", "answer", "grade")
    )


async def test_gauges_count_what_is_open(bench: Workbench) -> None:
    """Questions by status, and commands that nobody holds and those that somebody does."""
    run = await bench.run(questions=3)
    name = (await bench.ledger.run(run)).name
    await bench.claimed(await bench.question(run, "0"))
    await bench.through(await bench.question(run, "1"))
    found = await PostgresGauges(_pool(bench).pool).read()
    assert {"open": 2, "answered": 1} == {
        one.status: one.count for one in found.questions if one.run == name
    }
    assert 2 == dict(found.in_flight)[name]
    (plan,) = [one for one in found.commands if one.topic == "mia.plan"]
    assert plan.claimed >= 1
    assert plan.pending >= 1
