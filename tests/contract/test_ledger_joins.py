"""Joins by counters: every group completes, once."""

import pytest

from mia_events import ids
from mia_events.commits import Guard
from mia_events.lifecycle import Kind
from mia_events.steps import Order
from schemas import events as ev
from storage.ports import CommitResult, PendingCommit
from tests.contract.workbench import Workbench


def _types(result: CommitResult) -> list[str]:
    return [event.type for event in result.emitted]


@pytest.mark.parametrize("g", [1, 2, 4])
async def test_the_last_plan_wakes_the_question(workbench: Workbench, g: int) -> None:
    """Exactly one commit sees the group planned, and its event has the join's name."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, g)
    for rollout in rollouts[:-1]:
        assert [] == _types(await workbench.plan(rollout))
    result = await workbench.plan(rollouts[-1])
    assert ["question.planned"] == _types(result)
    assert ids.join_id(question, "planned") == result.emitted[0].id
    assert "routing" == (await workbench.stand(question)).status


async def test_a_rollout_that_fails_counts_as_planned(workbench: Workbench) -> None:
    """No group waits for a rollout that is gone."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 2)
    assert [] == _types(await workbench.fail(rollouts[0]))
    assert ["question.planned"] == _types(await workbench.plan(rollouts[1]))


async def test_one_commit_with_all_plans_wakes_the_question_once(workbench: Workbench) -> None:
    """Ends are summed per parent before they are counted."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    units = []
    for rollout in await workbench.fan_out(question, 4):
        claimed = await workbench.claimed(rollout)
        step = await workbench.resolve(claimed, ev.RolloutPlanned(plan="p"))
        units.append(PendingCommit(step=step))
    result = await workbench.commit(*units)
    assert ("committed",) * 4 == result.outcomes
    assert ["question.planned"] == _types(result)


async def test_the_candidate_wakes_the_question_and_a_sibling_does_not(
    workbench: Workbench,
) -> None:
    """Only the end of the rollout that runs for the answer settles the question."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 3)
    await workbench.plan(*rollouts)
    await workbench.choose(question, rollouts)
    assert [] == _types(await _fail_from_outside(workbench, question, rollouts[2]))
    result = await workbench.propose(rollouts[0])
    assert ["question.settling"] == _types(result)
    assert b'{"type":"question.settling","candidate":0}' == result.emitted[0].body
    assert ids.join_id(question, "settling:0") == result.emitted[0].id


async def test_a_candidate_that_was_gone_before_it_was_chosen_settles_at_once(
    workbench: Workbench,
) -> None:
    """The step that starts to wait checks the other side: no wake-up is lost."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 2)
    await workbench.fail(rollouts[0])
    await workbench.plan(rollouts[1])
    order = Order(
        kind=Kind.ROLLOUT,
        stream=rollouts[0],
        event=ev.RolloutChosen(role="candidate"),
        when=frozenset({"planned"}),
    )
    result = await workbench.step(question, ev.QuestionRouted(order=(0, 1)), order)
    assert ["question.settling"] == _types(result)


async def test_the_next_candidate_runs_and_settles_under_its_own_name(
    workbench: Workbench,
) -> None:
    """Rerouting waits for the next candidate; its join has another id."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 2)
    await workbench.plan(*rollouts)
    await workbench.choose(question, rollouts)
    await workbench.fail(rollouts[0])
    order = Order(
        kind=Kind.ROLLOUT,
        stream=rollouts[1],
        event=ev.RolloutChosen(role="candidate"),
        when=frozenset({"planned"}),
    )
    await workbench.step(question, ev.QuestionRerouted(candidate=1), order)
    result = await workbench.propose(rollouts[1])
    assert [ids.join_id(question, "settling:1")] == [event.id for event in result.emitted]


async def test_the_last_end_wakes_the_question_for_consolidation(workbench: Workbench) -> None:
    """Judged and failed rollouts both count; the answer goes to the outbox before."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 3)
    await workbench.plan(*rollouts)
    await workbench.choose(question, rollouts)
    await workbench.propose(rollouts[0])
    answered = await workbench.answer(question, rollouts)
    assert ("question.answered", True) == (answered.emitted[0].type, answered.emitted[0].outbound)
    assert "mia.answer" == answered.emitted[0].topic
    assert [] == _types(await workbench.finish(rollouts[1]))
    assert [] == _types(await workbench.fail(rollouts[2]))
    assert ["question.graded"] == _types(await workbench.judge(rollouts[0]))
    await workbench.step(question, ev.QuestionConsolidated(grade="correct"))
    assert await workbench.ended(run, question)


async def test_ends_before_the_answer_complete_the_group_with_the_answer(
    workbench: Workbench,
) -> None:
    """When every rollout ended first, the commit that starts to wait for them also wakes."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    (rollout,) = await workbench.fan_out(question, 1)
    await workbench.plan(rollout)
    await workbench.choose(question, [rollout])
    await workbench.fail(rollout)
    result = await workbench.step(question, ev.QuestionFailed(reason="no_rollout_left"))
    assert ["question.failed", "question.graded"] == _types(result)


async def test_a_failed_question_ends_its_open_rollouts_in_the_same_commit(
    workbench: Workbench,
) -> None:
    """A deadline fails the question and all that is open; the group is complete at once."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 3)
    await workbench.plan(rollouts[0])
    claimed = await workbench.stand(question)
    orders = [
        Order(
            kind=Kind.ROLLOUT,
            stream=rollout,
            event=ev.RolloutFailed(reason="timed_out"),
            when=frozenset({"planning", "planned"}),
        )
        for rollout in rollouts
    ]
    failed = ev.QuestionFailed(reason="timed_out")
    step = await workbench.resolve(claimed, failed, *orders, guard=Guard.VERSION)
    result = await workbench.commit(PendingCommit(step=step))
    assert ["question.failed", "question.graded"] == _types(result)
    assert all([await workbench.ended(run, rollout) for rollout in rollouts])


async def _fail_from_outside(
    workbench: Workbench, question: object, rollout: object
) -> CommitResult:
    """End a planned rollout that has no command, by version."""
    claimed = await workbench.stand(rollout)  # type: ignore[arg-type]  # a UUID
    failed = ev.RolloutFailed(reason="cancelled")
    step = await workbench.resolve(claimed, failed, guard=Guard.VERSION)
    result = await workbench.commit(PendingCommit(step=step))
    assert ("committed",) == result.outcomes
    return result
