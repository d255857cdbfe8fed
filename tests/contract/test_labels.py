"""Labels: kept sealed, ledgered as a commitment."""

from uuid import UUID

import pytest

from tests.contract.workbench import Workbench


async def test_there_is_no_label_until_one_is_sealed(workbench: Workbench) -> None:
    """None before, the value after."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    assert await workbench.labels.label(question) is None
    await workbench.labels.seal(run, question, "Paris", source="file")
    assert "Paris" == await workbench.labels.label(question)


async def test_the_same_label_again_is_one(workbench: Workbench) -> None:
    """A repeated record changes nothing."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    for _ in range(2):
        await workbench.labels.seal(run, question, "Paris", source="file")
    assert "Paris" == await workbench.labels.label(question)


async def test_the_newest_label_wins(workbench: Workbench) -> None:
    """A correction from another source replaces the first."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.labels.seal(run, question, "Paris", source="file")
    await workbench.labels.seal(run, question, "Lyon", source="topic")
    assert "Lyon" == await workbench.labels.label(question)


async def test_labels_belong_to_their_question(workbench: Workbench) -> None:
    """Another question has none."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.labels.seal(run, question, "Paris", source="file")
    assert await workbench.labels.label(UUID(int=3)) is None


async def test_a_rollout_that_waits_is_due_when_its_label_is_sealed(workbench: Workbench) -> None:
    """Others wait on, and nothing that was not waiting is touched."""
    run = await workbench.run(questions=2)
    waiting = {}
    for row in ("0", "1"):
        question = await workbench.question(run, row)
        (rollout,) = await workbench.fan_out(question, 1)
        await workbench.plan(rollout)
        await workbench.choose(question, [rollout])
        await workbench.propose(rollout)
        await workbench.answer(question, [rollout])
        held = await workbench.claimed(rollout)
        assert "judging" == held.status
        await workbench.ledger.release(rollout, held.claim, delay_s=3600.0, failed=False)
        waiting[question] = rollout
    (first, rollout), (_, other) = waiting.items()
    assert await workbench.claim(rollout) is None
    await workbench.labels.seal(run, first, "Paris", source="file")
    assert rollout == (await workbench.claimed(rollout)).stream
    assert await workbench.claim(other) is None


async def test_how_long_an_event_has_waited(workbench: Workbench) -> None:
    """By the clock of those who write events."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    held = await workbench.claimed(question)
    assert 0.0 <= await workbench.labels.waited(run, held.event_id) < 60.0
    with pytest.raises(LookupError, match="no event"):
        await workbench.labels.waited(run, UUID(int=3))
