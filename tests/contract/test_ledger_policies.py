"""Planner versions: registered with the step that made them, decided on with the one that seals."""

from uuid import UUID

import pytest

from mia_events import ids
from mia_events.effects import Candidate, ModelReply
from mia_events.learning.job import Parent
from mia_events.steps import Manifest, NewVersion, PolicyWrite
from mia_events.trajectory import follow
from schemas import events as ev
from schemas.envelope import decode_payload
from storage.ports import PendingCommit
from tests.contract.workbench import Workbench

_SHA = "ab" * 32


async def _ended_batches(workbench: Workbench, count: int = 1, *, lag: int = 0) -> int:
    """A run that trains, of batches of two questions with two rollouts; the first have ended."""
    manifest = Manifest(mode="batch", rollouts=2, batch_size=2, lag=lag, train=True)
    run = await workbench.run(manifest, questions=2 * (count + 1))
    for row in range(2):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    return run


async def _learner(workbench: Workbench, run: int) -> UUID:
    return ids.learner_id((await workbench.ledger.run(run)).id)


async def _questions(workbench: Workbench, run: int, *rows: int) -> tuple[UUID, ...]:
    return tuple([await workbench.question(run, str(row)) for row in rows])


def _version(number: int, parent: str) -> NewVersion:
    return NewVersion(
        number=number, name=f"planner@v{number}", parent=parent, adapter_sha256=_SHA,
        optimizer_sha256="cd" * 32, data_sha256="ef" * 32, record=b'{"loss":1}',
    )  # fmt: skip


def _trained(number: int, parent: str, batch: int) -> ev.LearnerTrained:
    return ev.LearnerTrained(
        number=batch, generation=batch + 1, policy=f"planner@v{number}", parent=parent,
        adapter_sha256=_SHA, optimizer_sha256="cd" * 32, data_sha256="ef" * 32, groups=2, rows=8,
    )  # fmt: skip


async def _train(
    workbench: Workbench, run: int, *, number: int = 1, parent: str = "base", batch: int = 0
) -> PolicyWrite:
    learner = await _learner(workbench, run)
    await workbench.step(learner, ev.LearnerMerged(number=batch, generation=batch + 1))
    groups = await _questions(workbench, run, 2 * batch, 2 * batch + 1)
    write = PolicyWrite(batch=batch, groups=groups, version=_version(number, parent))
    await workbench.step(learner, _trained(number, parent, batch), policy=write)
    return write


async def _wanted(workbench: Workbench, run: int) -> list[str]:
    return [row.name for row in await workbench.policies.wanted() if row.run_no == run]


async def _seal(
    workbench: Workbench, run: int, training: str, policy: str, *, batch: int = 0, best: str = ""
) -> list[str]:
    """Seal; the versions that questions opened on then."""
    sealed = ev.LearnerSealed(
        number=batch, generation=batch + 1, policy=policy, best=best,
        training="promoted" if training == "promoted" else "held_back",
    )  # fmt: skip
    result = await workbench.step(await _learner(workbench, run), sealed)
    payloads = [decode_payload(event.body) for event in result.emitted]
    return [event.policy for event in payloads if isinstance(event, ev.QuestionOpened)]


async def _untrained(workbench: Workbench, run: int) -> UUID:
    """The learner of a run that is served by planner@v1, and has its guard compare that with the
    base model: the second batch has taught nothing.
    """
    await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1", best="base")
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    learner = await _learner(workbench, run)
    await workbench.step(learner, ev.LearnerMerged(number=1, generation=2))
    told = ev.LearnerUntrained(
        number=1, generation=2, policy="planner@v1", training="skipped", problem="equal"
    )
    groups = await _questions(workbench, run, 2, 3)
    await workbench.step(learner, told, policy=PolicyWrite(batch=1, groups=groups))
    return learner


async def test_groups_with_two_grades_are_candidates_by_position(workbench: Workbench) -> None:
    """A group counts once it has ended; the base model is the parent of the first version."""
    run = await _ended_batches(workbench)
    view = await workbench.ledger.run(run)
    first, second = await _questions(workbench, run, 0, 1)
    found = await workbench.ledger.candidates(view.id, 0)
    assert Parent() == found.parent
    assert (
        Candidate(question=first, position=0, batch=0, policy="base"),
        Candidate(question=second, position=1, batch=0, policy="base"),
    ) == found.items


async def test_a_group_with_one_grade_is_no_candidate(workbench: Workbench) -> None:
    """Of a failed rollout nothing can be compared."""
    run = await workbench.run(Manifest(rollouts=2), questions=1)
    (question,) = await _questions(workbench, run, 0)
    rollouts = await workbench.fan_out(question, 2)
    await workbench.plan(*rollouts)
    await workbench.choose(question, rollouts)
    await workbench.propose(rollouts[0])
    await workbench.answer(question, rollouts)
    await workbench.fail(rollouts[1])
    await workbench.judge(rollouts[0])
    await workbench.step(question, ev.QuestionConsolidated(grade="correct"))
    assert () == (await workbench.ledger.candidates((await workbench.ledger.run(run)).id, 0)).items


async def test_groups_of_later_batches_are_no_candidates(workbench: Workbench) -> None:
    """With a lag the next batch may have ended too: its groups are its own."""
    run = await _ended_batches(workbench, lag=1)
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    view = await workbench.ledger.run(run)
    assert [0, 1] == [c.position for c in (await workbench.ledger.candidates(view.id, 0)).items]


async def test_a_version_is_registered_with_its_groups(workbench: Workbench) -> None:
    """One transaction: the event, the row, and groups that no other batch can have."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    row = await workbench.policies.get(run, "planner@v1")
    assert row is not None
    assert (1, "base", 0, "candidate", _SHA, b'{"loss":1}') == (
        row.number, row.parent, row.batch, row.state, row.adapter_sha256, row.record,
    )  # fmt: skip
    learner = await _learner(workbench, run)
    assert row.event_id == (await workbench.ports.events(learner))[-1].id
    view = await workbench.ledger.run(run)
    assert () == (await workbench.ledger.candidates(view.id, 9)).items
    assert (row,) == await workbench.policies.list(run)
    assert None is await workbench.policies.get(run, "planner@v2")


async def test_no_group_trains_twice(workbench: Workbench) -> None:
    """A step that uses a group again changes nothing, and says so."""
    run = await _ended_batches(workbench)
    write = await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1")
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    learner = await _learner(workbench, run)
    await workbench.step(learner, ev.LearnerMerged(number=1, generation=2))
    claimed = await workbench.claimed(learner)
    again = PolicyWrite(batch=1, groups=write.groups, version=_version(2, "planner@v1"))
    step = await workbench.resolve(claimed, _trained(2, "planner@v1", 1), policy=again)
    with pytest.raises(Exception, match="train_group"):
        await workbench.commit(PendingCommit(step=step))
    assert None is await workbench.policies.get(run, "planner@v2")
    assert "training" == (await workbench.stand(learner)).status


async def test_a_promoted_version_serves_the_next_batch(workbench: Workbench) -> None:
    """The seal that promotes is the transaction that opens the batch on it."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    opened = await _seal(workbench, run, "promoted", "planner@v1")
    assert ["planner@v1"] * 2 == opened
    row = await workbench.policies.get(run, "planner@v1")
    assert row is not None
    assert "promoted" == row.state
    view = await workbench.ledger.run(run)
    parent = (await workbench.ledger.candidates(view.id, 0)).parent
    assert ("planner@v1", _SHA, "cd" * 32) == (
        parent.policy, parent.adapter_sha256, parent.optimizer_sha256,
    )  # fmt: skip


async def test_a_version_that_is_held_back_serves_nobody(workbench: Workbench) -> None:
    """The next batch opens on what served before."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    opened = await _seal(workbench, run, "held_back", "base")
    assert ["base"] * 2 == opened
    row = await workbench.policies.get(run, "planner@v1")
    assert row is not None
    assert "held_back" == row.state
    assert () == await workbench.policies.wanted()


async def test_a_guard_may_return_to_the_best_where_nothing_was_made(workbench: Workbench) -> None:
    """What served is rolled back, and the next batch opens on the other."""
    run = await _ended_batches(workbench, 2)
    learner = await _untrained(workbench, run)
    assert "guarding" == (await workbench.stand(learner)).status
    sealed = ev.LearnerSealed(
        number=1, generation=2, training="skipped", policy="base", best="base", problem="equal"
    )
    result = await workbench.step(learner, sealed)
    opened = [decode_payload(event.body) for event in result.emitted]
    assert {"base"} == {one.policy for one in opened if isinstance(one, ev.QuestionOpened)}
    assert ["rolled_back"] == [one.state for one in await workbench.policies.list(run)]


async def test_a_guard_may_return_to_an_older_version(workbench: Workbench) -> None:
    """What served is rolled back then, and the candidate is held back."""
    run = await _ended_batches(workbench, 2)
    await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1")
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    await _train(workbench, run, number=2, parent="planner@v1", batch=1)
    opened = await _seal(workbench, run, "held_back", "base", batch=1)
    assert ["base"] * 2 == opened
    states = {row.name: row.state for row in await workbench.policies.list(run)}
    assert {"planner@v1": "rolled_back", "planner@v2": "held_back"} == states


async def test_a_batch_that_comes_late_is_on_its_generations_version(workbench: Workbench) -> None:
    """With a lag, a newer version may serve by then: what a batch is pinned to is no race."""
    run = await _ended_batches(workbench, lag=1)
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1")
    await _train(workbench, run, number=2, parent="planner@v1", batch=1)
    await _seal(workbench, run, "promoted", "planner@v2", batch=1)
    payloads = [decode_payload(event.body) for event in await workbench.accept(run, "4", "5")]
    opened = [event for event in payloads if isinstance(event, ev.QuestionOpened)]
    assert [(1, "planner@v1")] * 2 == [(event.generation, event.policy) for event in opened]


async def test_what_a_guard_looks_at_is_served_though_an_operator_went_elsewhere(
    workbench: Workbench,
) -> None:
    """Else its requests would wait for a version that nothing names any more."""
    run = await _ended_batches(workbench)
    await _untrained(workbench, run)
    await workbench.ports.runs.set_policy((await workbench.ledger.run(run)).name, "base")
    assert ["planner@v1"] == await _wanted(workbench, run)
    assert run in await workbench.policies.on_base()


async def test_a_candidate_that_an_operator_chose_stays_promoted(workbench: Workbench) -> None:
    """Whatever its guard says in the end: it serves."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    await workbench.ports.runs.set_policy((await workbench.ledger.run(run)).name, "planner@v1")
    opened = await _seal(workbench, run, "held_back", "base")
    assert ["planner@v1"] * 2 == opened
    assert ["promoted"] == [row.state for row in await workbench.policies.list(run)]


async def test_an_operators_order_in_between_stands(workbench: Workbench) -> None:
    """Whatever a guard decides on a version that was made before it."""
    run = await _ended_batches(workbench, 2)
    await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1")
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    await _train(workbench, run, number=2, parent="planner@v1", batch=1)
    name = (await workbench.ledger.run(run)).name
    assert "planner@v1" == await workbench.ports.runs.set_policy(name, "base")
    assert ["base"] * 2 == await _seal(workbench, run, "promoted", "planner@v2", batch=1)
    states = {row.name: row.state for row in await workbench.policies.list(run)}
    assert {"planner@v1": "rolled_back", "planner@v2": "promoted"} == states


async def test_a_batch_that_failed_uses_up_what_it_could_have_used(workbench: Workbench) -> None:
    """Without naming them: whoever buries an update does not know its groups."""
    run = await _ended_batches(workbench)
    learner = await _learner(workbench, run)
    await workbench.step(learner, ev.LearnerMerged(number=0, generation=1))
    failed = ev.LearnerSealed(number=0, generation=1, training="failed", problem="gone")
    await workbench.step(learner, failed, policy=PolicyWrite(batch=0, groups=None))
    view = await workbench.ledger.run(run)
    assert () == (await workbench.ledger.candidates(view.id, 9)).items


async def test_wanted_are_versions_that_serve_are_pinned_or_looked_at(workbench: Workbench) -> None:
    """A candidate from its registration on; the one that serves; not those of ended runs."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    mine = [row.name for row in await workbench.policies.wanted() if row.run_no == run]
    assert ["planner@v1"] == mine
    await _seal(workbench, run, "promoted", "planner@v1")
    mine = [row.name for row in await workbench.policies.wanted() if row.run_no == run]
    assert ["planner@v1"] == mine


async def test_wanted_is_also_what_a_guard_compares_and_the_best(workbench: Workbench) -> None:
    """A guard asks the candidate, its parent and the best; one may go back to the best at once."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1", best="planner@v1")
    name = (await workbench.ledger.run(run)).name
    await workbench.ports.runs.set_policy(name, "base")
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    assert ["planner@v1"] == await _wanted(workbench, run)
    await _train(workbench, run, number=2, parent="planner@v1", batch=1)
    assert ["planner@v1", "planner@v2"] == await _wanted(workbench, run)
    await _seal(workbench, run, "held_back", "base", batch=1)
    assert ["planner@v1"] == await _wanted(workbench, run)


async def test_an_operator_sets_what_serves(workbench: Workbench) -> None:
    """An event of the run, told outside; going back rolls back what served."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    await _seal(workbench, run, "held_back", "base")
    view = await workbench.ledger.run(run)
    assert "base" == await workbench.ports.runs.set_policy(view.name, "planner@v1", reason="try")
    assert ["promoted"] == [row.state for row in await workbench.policies.list(run)]
    parent = (await workbench.ledger.candidates(view.id, 0)).parent
    assert "planner@v1" == parent.policy
    assert "planner@v1" == await workbench.ports.runs.set_policy(view.name, "base")
    assert ["rolled_back"] == [row.state for row in await workbench.policies.list(run)]
    events = [decode_payload(event.body) for event in await workbench.ports.events(view.id)]
    assert [
        ev.RunPolicySet(policy="planner@v1", previous="base", by="operator", reason="try"),
        ev.RunPolicySet(policy="base", previous="planner@v1", by="operator"),
    ] == events[1:]
    told = await workbench.ledger.unsent([], grace_s=60, limit=99)
    assert ["run.policy_set"] * 2 == [fact.type for fact in told if fact.stream == view.id]
    assert {"mia.policy"} == {fact.topic for fact in told if fact.stream == view.id}


async def test_an_operator_is_refused_what_cannot_serve(workbench: Workbench) -> None:
    """A version that nobody registered, and the one that serves already; nothing is recorded."""
    run = await _ended_batches(workbench)
    view = await workbench.ledger.run(run)
    for wrong in ("planner@v1", "a-model"):
        with pytest.raises(LookupError, match=wrong):
            await workbench.ports.runs.set_policy(view.name, wrong)
    with pytest.raises(ValueError, match="already"):
        await workbench.ports.runs.set_policy(view.name, "base")
    assert 1 == len(await workbench.ports.events(view.id))


async def test_a_decision_on_what_no_longer_serves_leaves_the_operators_order(
    workbench: Workbench,
) -> None:
    """The guard was at work when the operator spoke."""
    run = await _ended_batches(workbench, 2)
    await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1")
    for row in (2, 3):
        await workbench.through(await workbench.question(run, str(row)), g=2)
    await _train(workbench, run, number=2, parent="planner@v1", batch=1)
    name = (await workbench.ledger.run(run)).name
    await workbench.ports.runs.set_policy(name, "base")
    opened = await _seal(workbench, run, "promoted", "planner@v2", batch=1)
    assert ["base"] * 2 == opened


async def test_a_group_is_read_with_its_planners_turns(workbench: Workbench) -> None:
    """Token for token as recorded, named by the command that they answered."""
    run = await workbench.run(Manifest(rollouts=2), questions=1)
    (question,) = await _questions(workbench, run, 0)
    rollouts = await workbench.fan_out(question, 2)
    for rollout in rollouts:
        claimed = await workbench.claimed(rollout)
        plan = await workbench.effect(claimed, "plan", ordinal=2)
        step = await workbench.resolve(claimed, ev.RolloutPlanned(plan="p"))
        await workbench.commit(PendingCommit(effects=(plan,), step=step))
    await workbench.choose(question, rollouts)
    await workbench.step(rollouts[0], ev.TurnAnswered(turn=1, text="t", answer="a"))
    claimed = await workbench.claimed(rollouts[0])
    replies = [await workbench.effect(claimed, text, n) for n, text in enumerate(("yes", "more"))]
    step = await workbench.resolve(claimed, ev.RolloutProposed(answer="a"))
    await workbench.commit(PendingCommit(effects=tuple(replies), step=step))
    await workbench.answer(question, rollouts)
    await workbench.finish(rollouts[1])
    await workbench.judge(rollouts[0])
    view = await workbench.ledger.run(run)
    (group,) = (await workbench.ledger.groups(view.id, [question])).items
    first, second = group.rollouts
    assert "correct" == follow([decode_payload(bytes(body)) for body in first.history]).grade
    assert [("plan", "plan"), ("reflect", "yes"), ("replan", "more")] == [
        (turn.step, turn.reply.text) for turn in first.turns
    ]
    assert [ModelReply(text="plan")] == [turn.reply for turn in second.turns]
    assert (question, 0, 1) == (group.question, group.position, second.number)


async def _live(workbench: Workbench, questions: int) -> tuple[int, UUID]:
    """A live run that trains on every two graded groups, and its learner."""
    manifest = Manifest(mode="live", rollouts=2, batch_size=2, train=True)
    run = await workbench.run(manifest, questions=questions)
    return run, await _learner(workbench, run)


async def test_in_live_mode_every_b_graded_groups_form_a_batch(workbench: Workbench) -> None:
    """Whoever ends first; what is left waits for the next ones."""
    run, learner = await _live(workbench, 4)
    await workbench.through(await workbench.question(run, "2"), g=2)
    assert "idle" == (await workbench.stand(learner)).status
    result = await workbench.through(await workbench.question(run, "0"), g=2)
    assert ["learner.batch_ready"] == [event.type for event in result.emitted]
    await workbench.step(learner, ev.LearnerMerged(number=0, generation=1))
    await workbench.through(await workbench.question(run, "1"), g=2)
    groups = await _questions(workbench, run, 0, 1)
    write = PolicyWrite(batch=0, groups=groups, version=_version(1, "base"))
    await workbench.step(learner, _trained(1, "base", 0), policy=write)
    await _seal(workbench, run, "promoted", "planner@v1")
    assert "idle" == (await workbench.stand(learner)).status
    view = await workbench.ledger.run(run)
    assert [2] == [c.position for c in (await workbench.ledger.candidates(view.id, 1)).items]


async def test_in_live_mode_the_last_groups_form_a_batch_too(workbench: Workbench) -> None:
    """A closing run ends when nothing is left to learn from; a skip does not come again."""
    run, learner = await _live(workbench, 1)
    await workbench.through(await workbench.question(run, "0"), g=2)
    assert "idle" == (await workbench.stand(learner)).status
    await workbench.ports.runs.close((await workbench.ledger.run(run)).name)
    emitted = await workbench.ledger.advance(run)
    assert ["learner.batch_ready"] == [event.type for event in emitted]
    await workbench.step(learner, ev.LearnerMerged(number=0, generation=1))
    groups = await _questions(workbench, run, 0)
    skipped = ev.LearnerSealed(number=0, generation=1, training="skipped", problem="equal")
    await workbench.step(learner, skipped, policy=PolicyWrite(batch=0, groups=groups))
    assert await workbench.ended(run, learner)
    name = (await workbench.ledger.run(run)).name
    assert "ended" == (await workbench.ledger.run_named(name))[1]


async def test_a_failed_live_batch_uses_up_one_batch_of_groups(workbench: Workbench) -> None:
    """Others have their turn."""
    run, learner = await _live(workbench, 3)
    for row in "012":
        await workbench.through(await workbench.question(run, row), g=2)
    await workbench.step(learner, ev.LearnerMerged(number=0, generation=1))
    failed = ev.LearnerSealed(number=0, generation=1, training="failed", problem="gone")
    await workbench.step(learner, failed, policy=PolicyWrite(batch=0, groups=None))
    view = await workbench.ledger.run(run)
    assert [2] == [c.position for c in (await workbench.ledger.candidates(view.id, 1)).items]


async def test_the_base_model_is_wanted_while_a_run_may_name_it(workbench: Workbench) -> None:
    """It serves until a version does; afterwards while something is pinned to it, or it is best."""
    run = await _ended_batches(workbench)
    assert run in await workbench.policies.on_base()
    await _train(workbench, run)
    assert run in await workbench.policies.on_base()
    await _seal(workbench, run, "promoted", "planner@v1")
    assert run not in await workbench.policies.on_base()
    await workbench.ports.runs.set_policy((await workbench.ledger.run(run)).name, "base")
    assert run in await workbench.policies.on_base()


async def test_the_base_model_is_wanted_while_it_is_the_best(workbench: Workbench) -> None:
    """A version within the margin serves, and is not the best for that."""
    run = await _ended_batches(workbench)
    await _train(workbench, run)
    await _seal(workbench, run, "promoted", "planner@v1", best="base")
    assert run in await workbench.policies.on_base()


async def test_one_at_a_time_brings_servers_level(workbench: Workbench) -> None:
    """Whoever comes second is told so, and may when the first has ended."""
    policies = workbench.policies
    async with policies.levelling() as first:
        async with policies.levelling() as second:
            assert (True, False) == (first, second)
        async with policies.levelling() as again:
            assert not again
    async with policies.levelling() as later:
        assert later
