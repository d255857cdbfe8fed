"""Commits: guards, effects, orders, and the chain."""

from mia_events import ids
from mia_events.chain import GENESIS, chain_hash
from mia_events.commits import Guard
from mia_events.lifecycle import Kind
from mia_events.steps import Order
from schemas import events as ev
from storage.ports import PendingCommit
from tests.contract.workbench import LEASE, Workbench


async def test_a_step_commits_once(workbench: Workbench) -> None:
    """The same step again is lost: the version moved on."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    claimed = await workbench.claimed(question)
    step = await workbench.resolve(claimed, ev.QuestionFannedOut(rollouts=1))
    assert ("committed",) == (await workbench.commit(PendingCommit(step=step))).outcomes
    again = await workbench.commit(PendingCommit(step=step))
    assert ("lost",) == again.outcomes
    assert () == again.emitted
    assert ["question.asked", "question.opened", "question.fanned_out"] == [
        event.type for event in await workbench.ports.events(question)
    ]


async def test_every_chain_verifies(workbench: Workbench) -> None:
    """Each hash follows from the one before, the header and the payload's digest."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    await workbench.through(question, g=2)
    for stream in (question, ids.rollout_id(question, 0), ids.rollout_id(question, 1)):
        previous = GENESIS
        log = await workbench.ports.events(stream)
        assert list(range(1, len(log) + 1)) == [event.seq for event in log]
        for event in log:
            previous = chain_hash(
                previous,
                stream=stream,
                seq=event.seq,
                event_id=event.id,
                cause=event.cause,
                at=event.at,
                body_sha256=event.body_sha,
                type_=event.type,
            )
            assert previous == event.hash


async def test_an_event_names_its_cause_and_its_claim(workbench: Workbench) -> None:
    """A step's event carries the command that led to it, the claim and the attempt."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    claimed = await workbench.claimed(question)
    step = await workbench.resolve(claimed, ev.QuestionFannedOut(rollouts=1))
    await workbench.commit(PendingCommit(step=step))
    event = (await workbench.ports.events(question))[-1]
    assert ids.event_id(question, 3) == event.id
    assert (claimed.event_id, claimed.claim, 1) == (event.cause, event.claim, event.attempt)


async def test_effects_are_read_back_by_ordinal(workbench: Workbench) -> None:
    """Recorded before the step, or with it, they are the same rows."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    claimed = await workbench.claimed(question)
    second, first = [await workbench.effect(claimed, text, n) for n, text in ((1, "b"), (0, "a"))]
    alone = await workbench.commit(PendingCommit(effects=(second,)))
    assert ("committed",) == alone.outcomes
    step = await workbench.resolve(claimed, ev.QuestionFannedOut(rollouts=1))
    await workbench.commit(PendingCommit(effects=(first,), step=step))
    assert [first, second] == await workbench.ledger.effects(run, claimed.event_id)


async def test_the_first_writer_of_an_effect_wins(workbench: Workbench) -> None:
    """Another reply under the same ordinal is a conflict, and its step is not applied."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    claimed = await workbench.claimed(question)
    first, other = [await workbench.effect(claimed, text) for text in "ab"]
    await workbench.commit(PendingCommit(effects=(first,)))
    step = await workbench.resolve(claimed, ev.QuestionFannedOut(rollouts=1))
    result = await workbench.commit(PendingCommit(effects=(other,), step=step))
    assert ("conflict",) == result.outcomes
    assert ("conflict",) == (await workbench.commit(PendingCommit(effects=(other,)))).outcomes
    assert [first] == await workbench.ledger.effects(run, claimed.event_id)
    assert 2 == (await workbench.stand(question)).version


async def test_the_same_effect_again_is_no_conflict(workbench: Workbench) -> None:
    """A commit whose answer was lost may be sent again."""
    run = await workbench.run(questions=1)
    claimed = await workbench.claimed(await workbench.question(run, "0"))
    effect = await workbench.effect(claimed, "a")
    for _ in range(2):
        assert ("committed",) == (await workbench.commit(PendingCommit(effects=(effect,)))).outcomes


async def test_sealed_effects_come_back_to_the_judge(workbench: Workbench) -> None:
    """A sealed row is recorded, read back by a sealed adapter, and its first writer wins too."""
    import msgspec  # noqa: PLC0415 - one use

    run = await workbench.run(questions=1)
    claimed = await workbench.claimed(await workbench.question(run, "0"))
    sealed = msgspec.structs.replace(await workbench.effect(claimed, "gold"), sealed=True)
    other = msgspec.structs.replace(await workbench.effect(claimed, "other"), sealed=True)
    assert ("committed",) == (await workbench.commit(PendingCommit(effects=(sealed,)))).outcomes
    assert ("conflict",) == (await workbench.commit(PendingCommit(effects=(other,)))).outcomes
    assert [sealed] == await workbench.ledger.effects(run, claimed.event_id)


async def test_a_lost_step_leaves_no_effect(workbench: Workbench) -> None:
    """Nothing of a step that lost its claim is kept."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    claimed = await workbench.claimed(question)
    effect = await workbench.effect(claimed, "a")
    step = await workbench.resolve(claimed, ev.QuestionFannedOut(rollouts=1))
    await workbench.ledger.release(question, claimed.claim, delay_s=0.0, failed=True)
    result = await workbench.commit(PendingCommit(effects=(effect,), step=step))
    assert ("lost",) == result.outcomes
    assert [] == await workbench.ledger.effects(run, claimed.event_id)


async def test_one_unit_of_a_group_does_not_hold_up_another(workbench: Workbench) -> None:
    """Lost, conflicting and good units in one commit: each has its own outcome."""
    run = await workbench.run(questions=4)
    questions = [await workbench.question(run, str(row)) for row in range(4)]
    claims = [await workbench.claimed(question) for question in questions]
    steps = [await workbench.resolve(c, ev.QuestionFannedOut(rollouts=1)) for c in claims]
    await workbench.ledger.release(questions[0], claims[0].claim, delay_s=0.0, failed=True)
    await workbench.commit(PendingCommit(effects=(await workbench.effect(claims[1], "first"),)))
    result = await workbench.commit(
        PendingCommit(step=steps[0]),
        PendingCommit(effects=(await workbench.effect(claims[1], "second"),), step=steps[1]),
        PendingCommit(step=steps[2]),
        PendingCommit(effects=(await workbench.effect(claims[3], "alone"),)),
    )
    assert ("lost", "conflict", "committed", "committed") == result.outcomes
    assert [2, 2, 3, 2] == [(await workbench.stand(q)).version for q in questions]


async def test_pre_emption_needs_the_version_and_no_claim(workbench: Workbench) -> None:
    """A deadline ends the question while a worker holds it; the worker's step is lost."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    held = await workbench.claimed(question)
    await workbench.stand(question)
    failed = ev.QuestionFailed(reason="timed_out")
    verdict = await workbench.resolve(held, failed, guard=Guard.VERSION)
    result = await workbench.commit(PendingCommit(step=verdict))
    assert ("committed",) == result.outcomes
    assert ["question.failed", "question.graded"] == [event.type for event in result.emitted]
    assert [True, False] == [event.outbound for event in result.emitted]
    late = await workbench.resolve(held, ev.QuestionFannedOut(rollouts=1))
    assert ("lost",) == (await workbench.commit(PendingCommit(step=late))).outcomes


async def test_an_order_reaches_only_streams_in_the_named_states(workbench: Workbench) -> None:
    """The candidate is chosen; an order to a stream in another state is dropped silently."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 2)
    await workbench.plan(rollouts[0])
    await workbench.fail(rollouts[1])
    orders = [
        Order(
            kind=Kind.ROLLOUT,
            stream=rollout,
            event=ev.RolloutChosen(role="candidate"),
            when=frozenset({"planned"}),
        )
        for rollout in rollouts
    ]
    result = await workbench.step(question, ev.QuestionRouted(order=(0, 1)), *orders)
    assert [("rollout.chosen", rollouts[0])] == [(e.type, e.stream) for e in result.emitted]
    assert "executing" == (await workbench.stand(rollouts[0])).status
    assert await workbench.ended(run, rollouts[1])


async def test_a_creation_happens_once(workbench: Workbench) -> None:
    """Rollouts are created by the step that fans out, with their number."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    rollouts = await workbench.fan_out(question, 3)
    views = (await workbench.ledger.rollouts(question)).items
    assert [(n, rollout, False) for n, rollout in enumerate(rollouts)] == [
        (view.number, view.id, view.ended) for view in views
    ]
    assert all(len(view.history) == 1 for view in views)


async def test_local_dispatch_sets_the_next_claim(workbench: Workbench) -> None:
    """The commit itself claims the next command; the Kafka copy finds it taken."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    (rollout,) = await workbench.fan_out(question, 1)
    await workbench.plan(rollout)
    await workbench.choose(question, [rollout])
    claimed = await workbench.claimed(rollout)
    answered = ev.TurnAnswered(turn=1, text="t", answer="a")
    step = await workbench.resolve(claimed, answered, next_claim=4242)
    result = await workbench.commit(PendingCommit(step=step))
    assert ["mia.reflect"] == [event.topic for event in result.emitted]
    assert await workbench.claim(rollout) is None
    assert {4242} == await workbench.ledger.renew([(rollout, 4242)], lease_s=LEASE)
    assert 1 == (await workbench.stand(rollout)).attempt


async def test_what_is_emitted_is_what_lies_in_the_ledger(workbench: Workbench) -> None:
    """Ids, places, times and bytes of published events are the ledger's."""
    run = await workbench.run(questions=1)
    question = await workbench.question(run, "0")
    (rollout,) = await workbench.fan_out(question, 1)
    result = await workbench.plan(rollout)
    (planned,) = result.emitted
    assert ("question.planned", "mia.plan", question) == (
        planned.type, planned.topic, planned.correlation,
    )  # fmt: skip
    event = (await workbench.ports.events(question))[-1]
    assert (event.seq, event.id, event.at, event.body) == (
        planned.seq, planned.id, planned.at, planned.body,
    )  # fmt: skip
