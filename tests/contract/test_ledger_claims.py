"""Claims: who may start a command, for how long, and what is counted."""

import asyncio

import msgspec
import pytest

from schemas import events as ev
from storage.ports import PendingCommit, Want
from tests.contract.workbench import LEASE, Workbench


async def test_a_command_is_granted_once(workbench: Workbench) -> None:
    """While a lease lives, nobody else gets the command."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    first = await workbench.claimed(question)
    assert (1, 0, 0) == (first.attempt, first.failures, first.isolated_deaths)
    assert await workbench.claim(question) is None


async def test_a_grant_carries_the_state_and_the_unknown_history(workbench: Workbench) -> None:
    """Only payloads after the known ones come, with the status and the command's id."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    want = Want(stream=question, version=2, claim=77, known=1)
    (granted,) = await workbench.ledger.claim([want], lease_s=LEASE)
    assert ("opening", "mia.plan", 2, 77, question) == (
        granted.status, granted.topic, granted.version, granted.claim, granted.parent,
    )  # fmt: skip
    assert 1 == len(granted.history)
    assert b"question.opened" in granted.history[0]
    log = await workbench.ports.events(question)
    assert log[-1].id == granted.event_id


async def test_an_old_version_is_not_granted(workbench: Workbench) -> None:
    """A command that was handled, and one that is not there yet, match nothing."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    wants = [Want(stream=question, version=version, claim=version) for version in (1, 3)]
    assert [] == await workbench.ledger.claim(wants, lease_s=LEASE)


async def test_a_stream_that_waits_has_nothing_to_claim(workbench: Workbench) -> None:
    """After fan-out the question waits for its rollouts."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.fan_out(question, 1)
    assert await workbench.claim(question) is None


async def test_an_expired_lease_may_be_taken_over(workbench: Workbench) -> None:
    """The second claim is attempt two; the first worker's step is lost."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    zombie = await workbench.claimed(question, lease_s=0.02)
    await asyncio.sleep(0.05)
    heir = await workbench.claimed(question)
    assert 2 == heir.attempt
    late = await workbench.resolve(zombie, ev.QuestionFannedOut(rollouts=1))
    assert ("lost",) == (await workbench.commit(PendingCommit(step=late))).outcomes
    own = await workbench.resolve(heir, ev.QuestionFannedOut(rollouts=1))
    assert ("committed",) == (await workbench.commit(PendingCommit(step=own))).outcomes


async def test_an_expired_lease_that_nobody_took_still_commits(workbench: Workbench) -> None:
    """Work that outlived its lease counts, as long as the claim is its own."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    slow = await workbench.claimed(question, lease_s=0.02)
    await asyncio.sleep(0.05)
    step = await workbench.resolve(slow, ev.QuestionFannedOut(rollouts=1))
    assert ("committed",) == (await workbench.commit(PendingCommit(step=step))).outcomes


async def test_renewal_keeps_a_claim_and_names_what_is_held(workbench: Workbench) -> None:
    """A renewed lease outlives its first end; a foreign claim is not reported."""
    run = await workbench.run(questions=2)
    first, second = [await workbench.question(run, row) for row in "01"]
    held = await workbench.claimed(first, lease_s=0.03)
    await workbench.claimed(second)
    wanted = [(first, held.claim), (second, 999)]
    assert {held.claim} == await workbench.ledger.renew(wanted, lease_s=LEASE)
    await asyncio.sleep(0.06)
    assert await workbench.claim(first) is None


async def test_a_fresh_command_has_not_begun(workbench: Workbench) -> None:
    """Only a claim that was given back makes the next one look for records."""
    run = await workbench.run(questions=2)
    question = await workbench.question(run, "0")
    held = await workbench.claimed(question)
    assert not held.begun
    await workbench.ledger.release(question, held.claim, delay_s=0.0, failed=False)
    assert (await workbench.claimed(question)).begun
    (rollout,) = await workbench.fan_out(await workbench.question(run, "1"), 1)
    assert not (await workbench.claimed(rollout)).begun


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_command_whose_lost_claim_left_effects_has_begun(
    workbench: Workbench, sealed: bool
) -> None:
    """A crash of the database takes a claim that was not on disk yet, and its worker goes on: what
    it records comes after the crash, for a command that nobody seems to have taken.
    """
    run = await workbench.run(questions=2)
    question = await workbench.question(run, "0")
    (never_granted,) = await workbench.ledger.load(run, question)
    effect = await workbench.effect(never_granted, "a")
    recorded = msgspec.structs.replace(effect, sealed=sealed)
    assert ("committed",) == (await workbench.commit(PendingCommit(effects=(recorded,)))).outcomes
    held = await workbench.claimed(question)
    assert (1, True) == (held.attempt, held.begun)
    assert not (await workbench.claimed(await workbench.question(run, "1"))).begun


@pytest.mark.parametrize(
    "failed, isolated, expected",
    [(False, False, (1, 0, 0)), (True, False, (2, 1, 0)), (False, True, (2, 0, 1))],
)
async def test_release_counts_what_happened(
    workbench: Workbench, failed: bool, isolated: bool, expected: tuple[int, int, int]
) -> None:
    """A drain takes the attempt back, a stated failure and an isolated death are counted."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    held = await workbench.claimed(question)
    assert await workbench.ledger.release(
        question, held.claim, delay_s=0.0, failed=failed, isolated_death=isolated
    )
    again = await workbench.claimed(question)
    assert expected == (again.attempt, again.failures, again.isolated_deaths)


async def test_release_delays_the_next_attempt(workbench: Workbench) -> None:
    """Before the delay is over nothing is granted, afterwards it is."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    held = await workbench.claimed(question)
    await workbench.ledger.release(question, held.claim, delay_s=0.5, failed=True)
    assert await workbench.claim(question) is None
    await asyncio.sleep(0.6)
    assert 2 == (await workbench.claimed(question)).attempt


async def test_a_claim_that_was_lost_cannot_be_released(workbench: Workbench) -> None:
    """Release by someone else changes nothing."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    held = await workbench.claimed(question)
    assert not await workbench.ledger.release(question, 999, delay_s=0.0, failed=True)
    assert {held.claim} == await workbench.ledger.renew([(question, held.claim)], lease_s=LEASE)


async def test_counters_start_again_with_the_next_command(workbench: Workbench) -> None:
    """Failures belong to one command, not to the stream."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    held = await workbench.claimed(question)
    await workbench.ledger.release(question, held.claim, delay_s=0.0, failed=True)
    (rollout,) = await workbench.fan_out(question, 1)
    await workbench.plan(rollout)
    routed = await workbench.claimed(question)
    assert (1, 0) == (routed.attempt, routed.failures)


async def test_a_paused_run_grants_nothing_and_lets_running_steps_end(
    workbench: Workbench,
) -> None:
    """What was claimed before the pause commits; nothing new starts until the run goes on."""
    run = await workbench.run(questions=2)
    first, second = [await workbench.question(run, row) for row in "01"]
    running = await workbench.claimed(first)
    view = await workbench.ledger.run(run)
    await workbench.ports.runs.pause(view.name)
    assert await workbench.claim(second) is None
    step = await workbench.resolve(running, ev.QuestionFannedOut(rollouts=1))
    assert ("committed",) == (await workbench.commit(PendingCommit(step=step))).outcomes
    await workbench.ports.runs.resume(view.name)
    assert await workbench.claim(second) is not None


async def test_many_claims_are_granted_in_one_call(workbench: Workbench) -> None:
    """One statement serves all free slots and skips what is not to be had."""
    run = await workbench.run(questions=4)
    questions = [await workbench.question(run, str(row)) for row in range(4)]
    taken = await workbench.claimed(questions[1])
    wants = [Want(stream=q, version=2, claim=100 + i) for i, q in enumerate(questions)]
    granted = await workbench.ledger.claim(wants, lease_s=LEASE)
    assert {100, 102, 103} == {claimed.claim for claimed in granted}
    assert taken.claim not in {claimed.claim for claimed in granted}
