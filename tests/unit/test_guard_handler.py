"""The guard: real handlers on anchors, every version at once, and a decision that is an event."""

from typing import Any

import msgspec
import pytest

from consumers.guard import STAGE, anchor_id
from consumers.guard.guard import guard, look_again
from consumers.runner.drive import Drive
from consumers.tools import TOOLS
from mia_events.effects import Call, Embed, Recall, Together, UseTool
from mia_events.learning.guard import GuardRules
from mia_events.steps import ModelChoice
from schemas.events import (
    LearnerBatchReady,
    LearnerMerged,
    LearnerSealed,
    LearnerTrained,
    LearnerUntrained,
    Payload,
)
from storage.ports import EffectRow
from tests.support.drive import ROLES, drive_with
from tests.support.guarding import ANCHORS, HOLDOUT, LABELS, World, guarding, sealed, trained

BASE = "planner-model"  # as the planner's endpoint calls the base model
V1, V2 = "planner@v1", "planner@v2"


def decided(world: World, *history: Any, **changes: Any) -> LearnerSealed:
    """The guard's event."""
    event: LearnerSealed = drive_with(guard, guarding(*history, **changes), world).event
    return event


def test_a_better_candidate_serves_and_becomes_the_best() -> None:
    """Scores of both are in the event, by name."""
    world = World(right=frozenset({V1}), wrong=frozenset({BASE}))
    found = decided(world, *trained(0, V1))
    assert ("promoted", V1, V1, V1) == (found.training, found.policy, found.candidate, found.best)
    assert (0, 1) == (found.number, found.generation)
    assert 1.0 == found.scores["candidate.final"] == 1.0 - found.scores["best.final"]
    assert found.reasons[0].endswith("against the best on 4 anchors")


def test_a_worse_candidate_never_serves() -> None:
    """Its parent goes on, and the reason is stated."""
    world = World(right=frozenset({BASE}), wrong=frozenset({V1}))
    found = decided(world, *trained(0, V1))
    assert ("held_back", "base", V1, "base") == (
        found.training, found.policy, found.candidate, found.best
    )  # fmt: skip
    assert "the candidate is 0.950 below the best on 4 anchors" in found.reasons[0]


def test_a_served_version_that_fell_gives_way_to_the_best() -> None:
    """Candidate and parent are both measured against the best, and that serves again."""
    world = World(right=frozenset({BASE}), wrong=frozenset({V1, V2}))
    history = [*trained(0, V1), sealed(0, V1, best="base"), *trained(1, V2, V1)]
    found = decided(world, *history)
    assert ("held_back", "base", "base") == (found.training, found.policy, found.best)
    assert "the version that serves is 0.950 below the best" in found.reasons[1]
    assert {BASE, V1, V2} == world.policies
    assert 0.0 == found.scores["parent.final"]


def test_the_best_is_sought_among_the_ancestors() -> None:
    """Who went back behind the best by hand is not compared with it any more."""
    world = World(right=frozenset({V1, V2, BASE}))
    history = [*trained(0, V1), sealed(0, V1, best=V1), *trained(1, V2, "base")]
    assert "promoted" == decided(world, *history).training
    assert {BASE, V2} == world.policies


def test_versions_meet_the_same_anchors_seeds_and_memories() -> None:
    """Pairing: what is asked for one differs from what is asked for the other in the model only."""
    world = World(right=frozenset({V1, BASE}))
    decided(world, *trained(0, V1))
    plans = {BASE: set(), V1: set()}  # type: dict[str, set[tuple[int | None, str]]]
    for call in (one for one in world.asked if isinstance(one, Call) and one.role == "planner"):
        if call.messages[0].content.startswith("Task: plan."):
            plans[call.model].add((call.seed, call.messages[-1].content))
    assert plans[BASE] == plans[V1]
    assert len(plans[V1]) == 2 * len(ANCHORS)
    assert {1} == {one.generation for one in world.asked if isinstance(one, Recall)}


def test_seeds_change_from_round_to_round() -> None:
    """Nobody is promoted again and again for one lucky draw."""
    seeds = []
    for number in (0, 1):
        world = World()
        decided(world, *trained(number, V1))
        seeds.append({one.seed for one in world.asked if isinstance(one, Call)})
    assert not seeds[0] & seeds[1]


def test_trained_turns_are_sampled_as_in_training() -> None:
    """Temperature 1 and tokens captured, whatever the role's own sampling is."""
    world = World()
    roles = {**ROLES, "planner": ModelChoice(model=BASE, temperature=0.0)}
    decided(world, *trained(0, V1), roles=roles)
    calls = [one for one in world.asked if isinstance(one, Call) and one.role == "planner"]
    assert {(1.0, True, None)} == {
        (one.temperature, one.capture_tokens, one.schema) for one in calls
    }


@pytest.mark.parametrize("mode,generation", [("batch", 1), ("live", None)])
def test_no_version_sees_other_memories(mode: str, generation: int | None) -> None:
    """One look for each anchor serves all, whatever is written meanwhile."""
    world = World()
    decided(world, *trained(0, V1), mode=mode)
    recalls = [one for one in world.asked if isinstance(one, Recall)]
    assert (len(ANCHORS), {generation}) == (len(recalls), {one.generation for one in recalls})


def test_what_only_looks_is_asked_once_a_round() -> None:
    """Sixteen rollouts of four anchors need four embeddings."""
    world = World()
    decided(world, *trained(0, V1))
    assert len(ANCHORS) == sum(isinstance(one, Embed) for one in world.asked)


@pytest.mark.parametrize("idempotent", [True, False])
def test_a_trial_has_no_effect_on_the_world(
    monkeypatch: pytest.MonkeyPatch, idempotent: bool
) -> None:
    """A tool that must not be repeated is not called at all."""
    tool = msgspec.structs.replace(TOOLS["search"], idempotent=idempotent)
    monkeypatch.setitem(TOOLS, "search", tool)
    world = World()
    decided(world, *trained(0, V1))
    assert idempotent == any(isinstance(one, UseTool) for one in world.asked)


def looked(world: World, *history: Any) -> LearnerSealed:
    """What a guard says of the version that serves, after a batch that taught nothing."""
    told = LearnerUntrained(
        number=1, generation=2, policy=V1, training="skipped", problem="all equal",
        metrics={"mean.reward": 0.0},
    )  # fmt: skip
    batch = [*trained(0, V1), sealed(0, V1, best="base")]
    batch += [LearnerBatchReady(number=1), LearnerMerged(number=1, generation=2), told, *history]
    event: LearnerSealed = drive_with(STAGE[LearnerUntrained], guarding(*batch), world).event
    return event


def test_a_version_that_fell_gives_way_though_nothing_new_was_made() -> None:
    """It may be why there was nothing to learn from: then no candidate would ever come."""
    found = looked(World(right=frozenset({BASE}), wrong=frozenset({V1})))
    assert ("skipped", "base", "base", "") == (
        found.training, found.policy, found.best, found.candidate
    )  # fmt: skip
    assert "the version that serves is 0.950 below the best" in found.reasons[0]
    assert ("all equal", {"mean.reward": 0.0}) == (found.problem, found.metrics)
    assert 0.0 == found.scores["parent.final"]


def test_a_version_that_holds_goes_on_though_nothing_new_was_made() -> None:
    """The best stays what it was."""
    found = looked(World(right=frozenset({BASE, V1})))
    assert ("skipped", V1, "base", ()) == (
        found.training, found.policy, found.best, found.reasons
    )  # fmt: skip


def test_a_version_that_no_request_reaches_is_held_back() -> None:
    """What cannot be answered ends a trial, and no other."""
    world = World(right=frozenset({V1, BASE}), gone=frozenset({V1}))
    found = decided(world, *trained(0, V1))
    assert ("held_back", "base") == (found.training, found.policy)
    assert "only 0 of 4 anchors were judged" in found.reasons[0]
    assert "best.reward" in found.scores


def test_divergence_from_the_base_comes_from_the_trainer() -> None:
    """It measures it where it is part of the loss."""
    found = decided(World(right=frozenset({V1, BASE})), *trained(0, V1, kl_base=3.0))
    assert ("held_back", 3.0) == (found.training, found.scores["candidate.kl"])
    assert "3.000 nats a token from the base" in found.reasons[0]


def test_without_a_guard_the_candidate_serves_at_once() -> None:
    """The event says that nobody looked."""
    world = World()
    found = decided(world, *trained(0, V1), guard="off")
    assert ("promoted", V1, ("the run has no guard",)) == (
        found.training, found.policy, found.reasons
    )  # fmt: skip
    assert [] == world.asked


def test_anchors_without_labels_promote_nobody() -> None:
    """No evidence is not good evidence."""
    world = World(right=frozenset({V1}))
    labels = dict(LABELS)
    try:
        LABELS.clear()
        found = decided(world, *trained(0, V1))
    finally:
        LABELS.update(labels)
    assert ("held_back", ("only 0 of 4 anchors were judged for both versions",)) == (
        found.training, found.reasons
    )  # fmt: skip


def test_a_step_that_can_never_succeed_ends_a_trial_unjudged() -> None:
    """As it ends a rollout that serves: the others go on."""
    tight = {**ROLES, "executor": ModelChoice(model="e", max_tokens=10, context_tokens=11)}
    found = decided(World(), *trained(0, V1), roles=tight)
    assert ("held_back", "base") == (found.training, found.policy)


def test_a_guard_without_a_judge_is_refused() -> None:
    """There is no reward to compare."""
    with pytest.raises(ValueError, match="no reward without a judge"):
        decided(World(), *trained(0, V1), judge="none")


def test_rollouts_of_an_anchor_are_as_many_as_the_rules_say() -> None:
    """And each has seeds of its own."""
    world = World()
    decided(world, *trained(0, V1), guard_rules=GuardRules(rollouts=3))
    calls = [one for one in world.asked if isinstance(one, Call) and one.model == V1]
    plans = [one for one in calls if one.messages[0].content.startswith("Task: plan.")]
    assert 3 * len(ANCHORS) == len(plans) == len({one.seed for one in plans})


def test_a_repeat_reads_what_was_recorded_and_decides_the_same() -> None:
    """A kill in the middle of a trial costs what was not recorded yet and nothing else."""
    task, world = guarding(*trained(0, V1)), World(right=frozenset({V1}))
    drive, rounds = Drive(guard, task), 0
    rows: list[EffectRow] = []
    while drive.step is None:
        for ask in drive.asks:
            drive.give(ask, world(ask.effect))
        rows += drive.take()
        rounds += 1
    assert rounds < 16
    half = Drive(guard, task, rows[: len(rows) // 2])
    again = World(right=frozenset({V1}))
    while half.step is None:
        for ask in half.asks:
            half.give(ask, again(ask.effect))
        half.take()
    assert drive.step == half.step
    assert len(rows) - len(rows) // 2 == len(again.asked)


def test_everything_after_the_first_label_is_sealed() -> None:
    """No role but the judge's reads what may repeat an anchor's label."""
    task, world = guarding(*trained(0, V1)), World()
    drive = Drive(guard, task)
    rows: list[EffectRow] = []
    while drive.step is None:
        for ask in drive.asks:
            drive.give(ask, world(ask.effect))
        rows += drive.take()
    kinds = [(row.kind, row.sealed) for row in sorted(rows, key=lambda row: row.ordinal)]
    first = kinds.index(("label", True))
    assert all(sealed for _, sealed in kinds[first:])
    assert not any(sealed for _, sealed in kinds[:first])


def test_it_handles_updates() -> None:
    """On the judge's topic, where labels may be read."""
    assert {LearnerTrained: guard, LearnerUntrained: look_again} == STAGE


def test_lockstep_asks_in_rounds() -> None:
    """A round is one Together, however many trials wait."""
    plan = guard(guarding(*trained(0, V1)))
    first = plan.send(None)
    assert isinstance(first, Together)
    assert len(ANCHORS) == len(first.effects)


def test_the_holdout_shows_each_version_and_decides_nothing() -> None:
    """A version that is perfect there is decided on as it would be without."""

    def world() -> World:
        return World(right=frozenset({V1}), wrong=frozenset({BASE}), about="lake")

    plain = decided(world(), *trained(0, V1))
    found = decided(world(), *trained(0, V1), holdout=HOLDOUT)
    assert plain == msgspec.structs.replace(found, holdout={})
    assert plain.scores["candidate.reward"] < 1.0
    assert ["base", V1] == sorted(found.holdout)
    assert (1.0,) * len(HOLDOUT) == found.holdout[V1]
    assert 1.0 not in found.holdout["base"]


def test_the_holdout_tells_right_from_wrong() -> None:
    """One number a question, in the manifest's order; None where there is no label."""
    world = World(right=frozenset({V1}), wrong=frozenset({BASE}))
    (gone,) = [name for name in LABELS if name == anchor_id(guarding().run, HOLDOUT[1])]
    label = LABELS.pop(gone)
    try:
        found = decided(world, *trained(0, V1), guard="off", holdout=HOLDOUT)
    finally:
        LABELS[gone] = label
    (first, unknown, last), wrong = found.holdout[V1], found.holdout["base"]
    assert unknown is None
    assert wrong[0] is not None
    assert first == last == 1.0
    assert wrong[0] < 0.5
    assert ("promoted", {}) == (found.training, found.scores)


def test_a_version_is_measured_on_the_holdout_once_and_always_in_the_same_way() -> None:
    """Between rounds only the version differs: seeds and memories are those of the first."""
    seen: list[set[tuple[int | None, str]]] = []
    history: list[Payload] = []
    for number, version in enumerate((V1, V2)):
        world = World()
        history += trained(number, version)
        done = decided(world, *history, guard="off", holdout=HOLDOUT, holdout_rollouts=2)
        history.append(done)
        assert world.policies == ({BASE, V1} if number == 0 else {V2})
        assert {0} == {one.generation for one in world.asked if isinstance(one, Recall)}
        calls = [one for one in world.asked if isinstance(one, Call) and one.model == version]
        seen.append({(one.seed, one.messages[-1].content) for one in calls[: 2 * len(HOLDOUT)]})
    assert seen[0] == seen[1]
    assert 2 * len(HOLDOUT) == len(seen[0])
