"""The train stage: what an update is made from, what it registers, and what comes of failures."""

from typing import Any
from uuid import UUID

import msgspec
import pytest

from consumers.plan import dead_letter_step
from consumers.train.update import update
from mia_events.effects import (
    Candidate,
    Candidates,
    ChooseGroups,
    Groups,
    GroupView,
    ReadGroups,
    Train,
)
from mia_events.learning.job import Hyper, Parent
from mia_events.learning.record import VersionRecord
from mia_events.lifecycle import Kind
from mia_events.steps import Poison, PolicyWrite, Task
from schemas.events import (
    LearnerBatchReady,
    LearnerMerged,
    LearnerSealed,
    LearnerStarted,
    LearnerTrained,
    LearnerUntrained,
    Payload,
)
from tests.support.drive import RUN, Driven, drive_with, task
from tests.support.fake_trainer import trained_by
from tests.support.groups import ended, group

FIRST: list[Payload] = [
    LearnerStarted(),
    LearnerBatchReady(number=0),
    LearnerMerged(number=0, generation=1),
]
VERSION = LearnerTrained(
    number=0, generation=1, policy="planner@v1", parent="base", adapter_sha256="a1",
    optimizer_sha256="b1", data_sha256="c1", groups=1, rows=4,
)  # fmt: skip
SECOND: list[Payload] = [
    *FIRST,
    VERSION,
    LearnerSealed(number=0, generation=1, training="promoted", policy="planner@v1"),
    LearnerBatchReady(number=1),
    LearnerMerged(number=1, generation=2),
]
V1 = Parent(policy="planner@v1", adapter_sha256="a1", optimizer_sha256="b1")


def learner(history: list[Payload], **changes: Any) -> Task:
    """The learner's command in a run that trains."""
    return task(Kind.LEARNER, history, **{"train": True, "hyper": Hyper(row_tokens=64), **changes})


def mixed(number: int) -> GroupView:
    """A group at position `number` with one right and one wrong rollout."""
    view = group(ended(0, "correct"), ended(1, "incorrect"), position=number)
    return msgspec.structs.replace(view, question=UUID(int=number))


def flat(number: int) -> GroupView:
    """A group whose rollouts are all worth the same."""
    view = group(ended(0, "correct"), ended(1, "correct"), position=number)
    return msgspec.structs.replace(view, question=UUID(int=number))


def found(*views: GroupView, policy: str = "base", parent: Parent = V1) -> Candidates:
    """These groups as candidates."""
    return Candidates(
        items=tuple(
            Candidate(question=view.question, position=view.position, batch=1, policy=policy)
            for view in views
        ),
        parent=parent,
    )


def learn(at: Task, candidates: Candidates, *views: GroupView) -> Driven:
    """The handler over these groups, with the fake trainer."""
    known = {view.question: view for view in views}

    def answer(effect: Any) -> Any:
        match effect:
            case ChooseGroups():
                return candidates
            case ReadGroups(questions=questions):
                return Groups(tuple(known[question] for question in questions))
            case Train(job=job):
                return trained_by(job)

    return drive_with(update, at, answer)


def test_a_batch_becomes_an_update_of_the_version_that_serves() -> None:
    """The job has the next number, the serving version's artifacts, the run's hyper-parameters."""
    views = (mixed(4), mixed(5))
    driven = learn(learner(SECOND), found(*views, policy="planner@v1"), *views)
    job = driven.only(Train).job
    assert ("planner@v2", V1, "planner-model", Hyper(row_tokens=64)) == (
        job.policy, job.parent, job.model, job.hyper,
    )  # fmt: skip
    assert [UUID(int=4)] * 4 + [UUID(int=5)] * 4 == [row.question for row in job.rows]
    made = trained_by(job)
    event = driven.event
    assert (1, 2, "planner@v2", "planner@v1", made.adapter_sha256, 2, 8) == (
        event.number, event.generation, event.policy, event.parent, event.adapter_sha256,
        event.groups, event.rows,
    )  # fmt: skip
    assert (0.0, 0.0, 0.0) == tuple(
        event.metrics[name] for name in ("staleness.max", "groups.stale", "rollouts.unjudged")
    )


def test_what_is_registered_is_what_the_event_says() -> None:
    """The record holds the job without its rows; all chosen groups are used up."""
    views = (mixed(4), flat(5))
    driven = learn(learner(SECOND), found(*views), *views)
    write, event = driven.step.policy, driven.event
    assert write is not None
    assert write.version is not None
    assert (1, (UUID(int=4), UUID(int=5))) == (write.batch, write.groups)
    new, record = write.version, msgspec.json.decode(write.version.record, type=VersionRecord)
    assert (event.policy, event.parent, event.adapter_sha256, event.data_sha256, 2) == (
        new.name, new.parent, new.adapter_sha256, new.data_sha256, new.number,
    )  # fmt: skip
    job = driven.only(Train).job
    assert msgspec.structs.replace(job, rows=()) == record.job
    assert event.metrics == record.metrics
    assert (1.0, 1) == (event.metrics["groups.flat"], event.groups)


def test_the_same_groups_make_the_same_job() -> None:
    """Whatever happened in between: an update is repeated, not varied."""
    views = (mixed(4), mixed(5))
    jobs = [learn(learner(SECOND), found(*views), *views).only(Train).job for _ in range(2)]
    assert jobs[0] == jobs[1]
    other = learn(learner(SECOND, seed=9), found(*views), *views).only(Train).job
    assert other.seed != jobs[0].seed


def test_versions_of_older_batches_count_as_stale() -> None:
    """Rows keep the version that sampled them; how far it is behind is told."""
    views = (mixed(1), mixed(4))
    candidates = found(*views)
    driven = learn(learner(SECOND), candidates, *views)
    assert {"base"} == {row.policy for row in driven.only(Train).job.rows}
    assert 1.0 == driven.event.metrics["staleness.max"]


def test_groups_beyond_the_bound_are_left_to_memory() -> None:
    """They are counted and not read, and do not come again."""
    fresh, old = mixed(4), mixed(1)
    items = (*found(old).items, *found(fresh, policy="planner@v1").items)
    candidates = Candidates(items=items, parent=V1)
    driven = learn(learner(SECOND, staleness=0), candidates, fresh, old)
    assert (fresh.question,) == driven.only(ReadGroups).questions
    assert driven.step.policy is not None
    assert (fresh.question, old.question) == driven.step.policy.groups
    assert 1.0 == driven.event.metrics["groups.stale"]


def test_a_live_batch_takes_as_many_groups_as_make_one() -> None:
    """The first by position; the others wait."""
    views = (mixed(6), mixed(4), mixed(5))
    at = learner(SECOND, mode="live", batch_size=2)
    driven = learn(at, found(*views, policy="planner@v1"), *views)
    assert driven.step.policy is not None
    assert (UUID(int=4), UUID(int=5)) == driven.step.policy.groups


def test_equal_rewards_are_skipped_with_the_reason() -> None:
    """Nothing is asked of the trainer; the groups are used up, the version stays."""
    driven = learn(learner(SECOND), found(flat(4)), flat(4))
    assert [ChooseGroups, ReadGroups] == [type(effect) for effect in driven.asked]
    event = driven.event
    assert ("skipped", 1, 2, "planner@v1") == (
        event.training, event.number, event.generation, event.policy,
    )  # fmt: skip
    assert "equal rewards" in event.problem
    assert PolicyWrite(batch=1, groups=(UUID(int=4),)) == driven.step.policy


def test_no_groups_at_all_are_a_skip() -> None:
    """A batch of groups of one, or one that nobody judged."""
    event = learn(learner(FIRST), Candidates(items=())).event
    assert ("skipped", "base") == (event.training, event.policy)


def broken(number: int) -> GroupView:
    """A group with a turn whose tokens were not captured."""
    view = mixed(number)
    rollout = view.rollouts[0]
    lost = msgspec.structs.replace(rollout.turns[0].reply, prompt_ids=(), uncaptured="none given")
    turns = (msgspec.structs.replace(rollout.turns[0], reply=lost), *rollout.turns[1:])
    rollouts = (msgspec.structs.replace(rollout, turns=turns), *view.rollouts[1:])
    return msgspec.structs.replace(view, rollouts=rollouts)


def test_a_batch_without_a_trainable_group_fails_once() -> None:
    """The failure names the turn, and its group does not come again with the next batch."""
    view = broken(4)
    driven = learn(learner(SECOND), found(view), view)
    assert "failed" == driven.event.training
    assert "none given" in driven.event.problem
    assert PolicyWrite(batch=1, groups=(view.question,)) == driven.step.policy


def test_a_turn_without_its_tokens_costs_its_group_only() -> None:
    """The others are trained on; what is wrong is counted and kept."""
    views = (broken(4), mixed(5))
    driven = learn(learner(SECOND), found(*views), *views)
    assert {UUID(int=5)} == {row.question for row in driven.only(Train).job.rows}
    assert (1.0, 1) == (driven.event.metrics["groups.untrainable"], driven.event.groups)
    assert driven.step.policy is not None
    assert driven.step.policy.version is not None
    assert (UUID(int=4), UUID(int=5)) == driven.step.policy.groups
    record = msgspec.json.decode(driven.step.policy.version.record, type=VersionRecord)
    assert "none given" in record.problems[0]


def test_what_serves_is_looked_at_where_nothing_is_made_and_it_is_not_the_best() -> None:
    """A guard gets what the batch told; without one the batch is sealed."""
    best = LearnerSealed(
        number=0, generation=1, training="promoted", policy="planner@v1", best="base"
    )
    history = [*FIRST, VERSION, best, *SECOND[-2:]]
    for guarded, expected in (("anchors", LearnerUntrained), ("off", LearnerSealed)):
        at = learner(history, guard=guarded)
        driven = learn(at, found(flat(4), policy="planner@v1"), flat(4))
        event = driven.event
        assert isinstance(event, expected)
        assert ("skipped", "planner@v1", 1.0) == (
            event.training, event.policy, event.metrics["mean.final"]
        )  # fmt: skip
        assert driven.step.policy == PolicyWrite(batch=1, groups=(UUID(int=4),))


def test_what_is_too_old_is_counted_though_nothing_is_made() -> None:
    """It stays memory."""
    driven = learn(learner(SECOND, staleness=0), found(mixed(4), policy="base"))
    assert isinstance(driven.event, LearnerSealed)
    assert 1.0 == driven.event.metrics["groups.stale"]


def test_a_dead_lettered_update_uses_its_groups_up() -> None:
    """What nobody could train on must not fail every later batch too."""
    step = dead_letter_step(learner(SECOND), Poison("out of memory"))
    assert PolicyWrite(batch=1, groups=None) == step.policy
    event = step.event
    assert isinstance(event, LearnerSealed)
    assert ("failed", "planner@v1", 2) == (event.training, event.policy, event.generation)


def test_a_guard_that_fails_leaves_what_served() -> None:
    """The candidate is named; its parent goes on."""
    event = dead_letter_step(learner([*FIRST, VERSION]), Poison("no planner")).event
    assert isinstance(event, LearnerSealed)
    assert ("failed", "base", "planner@v1") == (event.training, event.policy, event.candidate)


def test_a_number_is_used_once_even_when_its_version_was_held_back() -> None:
    """The child of the base after a version that never served is number 2."""
    history = [
        *FIRST,
        VERSION,
        LearnerSealed(number=0, generation=1, training="held_back"),
        LearnerBatchReady(number=1),
        LearnerMerged(number=1, generation=2),
    ]
    job = learn(learner(history), found(mixed(4), parent=Parent()), mixed(4)).only(Train).job
    assert ("planner@v2", Parent()) == (job.policy, job.parent)


@pytest.mark.parametrize("number", [0, 1])
def test_groups_are_asked_for_up_to_the_batch(number: int) -> None:
    """With a lag, the groups of the next batch are its own."""
    history = FIRST if number == 0 else SECOND
    asked = learn(learner(history), Candidates(items=())).only(ChooseGroups)
    assert ChooseGroups(run=RUN, number=number) == asked
