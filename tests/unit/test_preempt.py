"""Steps over a stream's head: every stream that has a command has a stated end."""

from uuid import UUID

import pytest

from consumers.plan import dead_letter_step, fail_question
from mia_events.commits import step_commit
from mia_events.lifecycle import ENDED, TABLES, Kind
from mia_events.steps import OutcomeUnknown, Poison
from schemas.events import (
    LearnerBatchReady,
    LearnerMerged,
    LearnerSealed,
    LearnerStarted,
    LearnerTrained,
    Payload,
    QuestionAnswered,
    QuestionConsolidated,
    QuestionFailed,
    QuestionGraded,
    QuestionSettling,
    RolloutFailed,
)
from tests.support.drive import rollout, task
from tests.support.histories import (
    answered,
    called,
    chosen,
    opened,
    planned,
    question_opened,
    question_planned,
    question_routed,
    submitted,
)

LEARNER: list[Payload] = [
    LearnerStarted(),
    LearnerBatchReady(number=0),
    LearnerSealed(number=0, generation=1, training="promoted", policy="planner@v1"),
    LearnerBatchReady(number=1),
]
CONSOLIDATING: list[Payload] = [
    *question_routed(0),
    QuestionSettling(candidate=0),
    QuestionAnswered(answer="Scott", rollout=0),
    QuestionGraded(),
]
TRAINED = LearnerTrained(
    number=1,
    generation=2,
    policy="planner@v2",
    parent="planner@v1",
    adapter_sha256="aa",
    optimizer_sha256="bb",
    data_sha256="cc",
    groups=1,
    rows=4,
)
WITH_COMMANDS = [
    (Kind.ROLLOUT, opened()),
    (Kind.ROLLOUT, chosen()),
    (Kind.ROLLOUT, [*chosen(), *called()]),
    (Kind.ROLLOUT, answered()),
    (Kind.ROLLOUT, submitted()),
    (Kind.QUESTION, question_opened()),
    (Kind.QUESTION, question_planned()),
    (Kind.QUESTION, [*question_routed(0), QuestionSettling(candidate=0)]),
    (Kind.QUESTION, CONSOLIDATING),
    (Kind.LEARNER, LEARNER),
    (Kind.LEARNER, [*LEARNER, LearnerMerged(number=1, generation=2)]),
    (Kind.LEARNER, [*LEARNER, LearnerMerged(number=1, generation=2), TRAINED]),
]


@pytest.mark.parametrize("kind,history", WITH_COMMANDS)
def test_every_command_has_a_dead_letter_step(kind: Kind, history: list[Payload]) -> None:
    """The step is one that the life cycle allows, and nothing is left to be done by its stage."""
    stuck = task(kind, history)
    commit = step_commit(stuck, dead_letter_step(stuck, Poison("no")), claim=1, attempt=3)
    assert None is commit.entries[0].topic


def test_the_cases_above_are_all_statuses_with_a_command() -> None:
    """No status with a topic is missing from them."""
    with_topic = {
        (kind, rule.status)
        for kind, table in TABLES.items()
        for rule in table.values()
        if rule.topic is not None
    }
    assert with_topic == {(kind, task(kind, history).status) for kind, history in WITH_COMMANDS}


@pytest.mark.parametrize(
    "error,reason",
    [(Poison("x"), "dead_letter"), (OutcomeUnknown("x"), "outcome_unknown")],
)
def test_a_rollout_fails_for_the_reason_of_its_error(error: Poison, reason: str) -> None:
    """A call that may have happened is told apart."""
    event = dead_letter_step(task(Kind.ROLLOUT, chosen()), error).event
    assert isinstance(event, RolloutFailed)
    assert (reason, f"{type(error).__name__}: x") == (event.reason, event.detail)


def test_the_detail_of_a_judges_error_is_its_class_only() -> None:
    """An error while judging may quote the gold answer."""
    event = dead_letter_step(task(Kind.ROLLOUT, submitted()), Poison("gold: Scott")).event
    assert RolloutFailed(reason="dead_letter", detail="Poison") == event


def test_a_consolidation_that_fails_ends_the_question_with_the_problem() -> None:
    """The answer stands; only memory has a gap, which is stated."""
    event = dead_letter_step(task(Kind.QUESTION, CONSOLIDATING), Poison("no manager")).event
    assert QuestionConsolidated(problem="Poison: no manager") == event


def test_a_merge_that_fails_seals_the_generation_with_the_last_policy() -> None:
    """Learning goes on with the next batch."""
    event = dead_letter_step(task(Kind.LEARNER, LEARNER), Poison("disk")).event
    expected = LearnerSealed(
        number=1, generation=2, training="failed", policy="planner@v1", problem="Poison: disk"
    )
    assert expected == event


def test_failing_a_question_ends_all_its_rollouts() -> None:
    """Each order applies wherever the rollout stands, and not to one that has ended."""
    step = fail_question(task(Kind.QUESTION, question_routed(1, 0)), "timed_out", "30 s")
    assert QuestionFailed(reason="timed_out", detail="30 s") == step.event
    assert [rollout(0), rollout(1)] == [order.stream for order in step.orders]
    assert {RolloutFailed(reason="timed_out")} == {order.event for order in step.orders}
    assert ENDED not in step.orders[0].when
    assert {"planning", "planned", "executing", "judging"} < step.orders[0].when


def test_a_question_that_never_fanned_out_fails_alone() -> None:
    """Before the fan-out there is no rollout to end."""
    assert () == fail_question(task(Kind.QUESTION, question_opened()), "cancelled").orders


def test_a_stream_that_waits_is_no_dead_letter() -> None:
    """A planned rollout's question has no command; asking for its end is the caller's error."""
    history = question_planned()[:-1]
    with pytest.raises(LookupError, match="a question that is planning has no command"):
        dead_letter_step(task(Kind.QUESTION, history), Poison("x"))


def test_a_detail_is_bounded_and_clean() -> None:
    """An error's text goes into an event, so it is cut and has no control characters."""
    event = dead_letter_step(task(Kind.ROLLOUT, planned()[:1]), Poison("\x00" + "x" * 9_000)).event
    assert isinstance(event, RolloutFailed)
    assert len(event.detail) == 500
    assert "\x00" not in event.detail


def test_streams_are_named_by_question_and_number() -> None:
    """Orders reach the streams that the fan-out created."""
    stream = fail_question(task(Kind.QUESTION, question_routed(0)), "cancelled").orders[0].stream
    assert isinstance(stream, UUID)
    assert rollout(0) == stream
