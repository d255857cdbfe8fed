"""The consolidate stage: which rollouts become memories, and how a batch is merged."""

from uuid import UUID

import msgspec
import pytest

from consumers.consolidate.keep import credits_of, keep
from consumers.consolidate.merge import merge
from consumers.consolidate.question import consolidate
from mia_events.effects import (
    Call,
    Consolidated,
    ConsolidatedQuestion,
    ModelReply,
    ReadBatch,
    Vectors,
)
from mia_events.lifecycle import Kind
from mia_events.memories import dedupe_key
from mia_events.trajectory import follow
from schemas.envelope import encode_payload
from schemas.events import (
    Grade,
    LearnerBatchReady,
    LearnerMerged,
    LearnerSealed,
    LearnerStarted,
    MemoryCandidate,
    MemoryUse,
    Payload,
    QuestionAnswered,
    QuestionConsolidated,
    QuestionFailed,
    QuestionGraded,
    QuestionSettling,
)
from tests.support.drive import QUESTION, RUN, VECTOR, drive, task, views
from tests.support.histories import failed, judged, question_opened, question_routed

M1, M2 = UUID(int=1), UUID(int=2)
EMBEDDED = Vectors((VECTOR,))
HUMAN = ModelReply(text='{"category": "human"}')


def graded(official: int = 0) -> list[Payload]:
    """A question all of whose rollouts have ended."""
    return [
        *question_routed(official),
        QuestionSettling(candidate=official),
        QuestionAnswered(answer="Scott", rollout=official),
        QuestionGraded(),
    ]


def test_a_success_and_a_failure_are_kept() -> None:
    """Both are compressed; the grade is the official rollout's, the credit the majority's."""
    driven = drive(
        consolidate,
        task(Kind.QUESTION, graded(official=1)),
        views(
            judged(0, "correct", searches=3, memories=(M1, M2)),
            judged(1, "incorrect", memories=(M1,)),
            judged(2, "correct", searches=1, memories=(M1,)),
            failed(3),
        ),
        EMBEDDED,
        HUMAN,
        ModelReply(text="1. Did right."),
        ModelReply(text="1. Did wrong."),
    )
    event = driven.event
    assert isinstance(event, QuestionConsolidated)
    assert [
        ("success", 2, "1. Did right.", VECTOR, "human"),
        ("failure", 1, "1. Did wrong.", VECTOR, "human"),
    ] == [(m.outcome, m.rollout, m.text, m.vector, m.category) for m in event.memories]
    assert ("incorrect", "") == (event.grade, event.problem)
    assert (MemoryUse(memory=M1, won=True), MemoryUse(memory=M2, won=True)) == event.uses
    assert None is driven.step.memory


def test_in_live_mode_memory_is_written_at_once() -> None:
    """The write is part of the same step, as the scope's next generation."""
    driven = drive(
        consolidate,
        task(Kind.QUESTION, graded(), mode="live"),
        views(judged(0, "incorrect", memories=(M1,))),
        EMBEDDED,
        HUMAN,
        ModelReply(text="1. Did wrong."),
    )
    write = driven.step.memory
    assert write is not None
    assert ("shelf", None) == (write.scope, write.generation)
    assert ((QUESTION.id, driven.event.memories[0]),) == write.candidates
    assert ((QUESTION.id, MemoryUse(memory=M1, won=False)),) == write.uses


@pytest.mark.parametrize("reply", [ModelReply(text="", problem="500"), ModelReply(text=" ")])
def test_without_a_summary_the_plan_is_kept_and_it_is_said(reply: ModelReply) -> None:
    """The question ends with a memory and the problem."""
    event = drive(
        consolidate,
        task(Kind.QUESTION, graded()),
        views(judged(0, "correct")),
        EMBEDDED,
        HUMAN,
        reply,
    ).event
    assert event.memories[0].text == "1. Search Waverley."
    assert event.problem == "no summary of rollout 0: its plan stands"


def test_a_question_without_grades_leaves_nothing() -> None:
    """No model is asked when nothing is kept."""
    driven = drive(
        consolidate,
        task(Kind.QUESTION, graded(), mode="live"),
        views(judged(0, "unjudged"), failed(1)),
    )
    assert (QuestionConsolidated(), None) == (driven.event, driven.step.memory)


def test_a_failed_question_is_unjudged_but_teaches() -> None:
    """Rollouts that were graded are kept even when there is no official answer."""
    history = [*question_opened(), QuestionFailed(reason="timed_out"), QuestionGraded()]
    event = drive(
        consolidate,
        task(Kind.QUESTION, history),
        views(judged(0, "correct")),
        EMBEDDED,
        HUMAN,
        ModelReply(text="1."),
    ).event
    assert ("unjudged", 1) == (event.grade, len(event.memories))


def test_summaries_of_both_are_asked_for_by_the_manager() -> None:
    """A call that fails for good does not fail the step."""
    driven = drive(
        consolidate,
        task(Kind.QUESTION, graded()),
        views(judged(0, "correct"), judged(1, "incorrect")),
        EMBEDDED,
        HUMAN,
        ModelReply(text="1."),
        ModelReply(text="1."),
    )
    calls = [effect for effect in driven.asked if isinstance(effect, Call)]
    assert ["manager"] * 3 == [call.role for call in calls]
    assert all(call.tolerate for call in calls)
    assert 3 == len({call.seed for call in calls})


@pytest.mark.parametrize(
    "reply",
    [ModelReply(text="", problem="500"), ModelReply(text="human"), ModelReply(text="NOT VALID")],
)
def test_a_question_that_was_not_classified_is_said_to_be_so(reply: ModelReply) -> None:
    """No category is guessed."""
    event = drive(
        consolidate,
        task(Kind.QUESTION, graded()),
        views(judged(0, "correct")),
        EMBEDDED,
        reply,
        ModelReply(text="1."),
    ).event
    assert ("", "the question was not classified") == (event.memories[0].category, event.problem)


def test_without_a_summary_and_a_plan_nothing_is_kept() -> None:
    """An empty memory teaches nothing."""
    event = drive(
        consolidate,
        task(Kind.QUESTION, graded()),
        views(judged(0, "correct", plan="")),
        EMBEDDED,
        HUMAN,
        ModelReply(text=""),
    ).event
    assert () == event.memories


def test_a_summary_that_was_cut_off_keeps_its_whole_lines() -> None:
    """Half a step is no lesson."""
    event = drive(
        consolidate,
        task(Kind.QUESTION, graded()),
        views(judged(0, "correct")),
        EMBEDDED,
        HUMAN,
        ModelReply(text="1. Searched.\n2. Com", finish_reason="length"),
    ).event
    assert "1. Searched." == event.memories[0].text


@pytest.mark.parametrize(
    "grades,chance,expected",
    [
        (["correct", "correct"], 0, (0, None)),
        (["incorrect", "correct"], 0, (1, 0)),
        (["incorrect", "not_attempted", "correct"], 1, (2, 1)),
        (["incorrect", "not_attempted", "correct"], 2, (2, 0)),
        (["unjudged"], 5, (None, None)),
    ],
)
def test_what_is_kept(
    grades: list[Grade], chance: int, expected: tuple[int | None, int | None]
) -> None:
    """Fewest turns then lowest number for success, chance for failure."""
    kept = keep([follow(judged(n, grade)) for n, grade in enumerate(grades)], chance)
    success = kept.success.number if kept.success else None
    failure = kept.failure.number if kept.failure else None
    assert expected == (success, failure)


@pytest.mark.parametrize(
    "grades,won",
    [
        (["correct"], True),
        (["correct", "incorrect"], False),  # a draw is no majority
        (["correct", "unjudged", "correct", "not_attempted"], True),
        (["incorrect"], False),
        (["unjudged"], None),
        ([], None),
    ],
)
def test_a_memory_wins_with_most_of_the_rollouts_that_used_it(
    grades: list[Grade], won: bool | None
) -> None:
    """Kept or not; rollouts that did not use it, or have no grade, have no say."""
    used = [follow(judged(n, grade, memories=(M1,))) for n, grade in enumerate(grades)]
    others = [follow(judged(n, "incorrect")) for n in (7, 8, 9)]
    expected = () if won is None else (MemoryUse(memory=M1, won=won),)
    assert expected == credits_of([*used, *others])


def test_a_memory_of_a_failure_gets_no_credit() -> None:
    """A question that went well is no success of a warning, nor the reverse its failure."""
    used = [follow(judged(n, "correct", memories=(M1, M2), warnings=(M2,))) for n in range(2)]
    assert (MemoryUse(memory=M1, won=True),) == credits_of(used)


def test_a_question_has_one_key_per_outcome() -> None:
    """Case, spacing and compatibility forms do not make another question; punctuation may."""
    key = dedupe_key("Who  wrote\nWaverley?", "success")
    assert key == dedupe_key("who wrote waverley?", "success")
    assert key != dedupe_key("who wrote waverley?", "failure")
    assert dedupe_key("What is C?", "success") != dedupe_key("What is C++?", "success")


def left(position: int, key: str, text: str, used: UUID) -> ConsolidatedQuestion:
    """What a question of a batch left."""
    candidate = MemoryCandidate(
        dedupe_key=key, text=text, question="q", outcome="success", rollout=0
    )
    body = QuestionConsolidated(
        grade="correct", memories=(candidate,), uses=(MemoryUse(memory=used, won=True),)
    )
    return ConsolidatedQuestion(
        question=UUID(int=100 + position),
        position=position,
        body=msgspec.Raw(encode_payload(body)),
    )


def test_a_batch_is_merged_in_the_order_of_its_questions() -> None:
    """The generation is written and sealed in one step; a key's later question wins."""
    history: list[Payload] = [LearnerStarted(), LearnerBatchReady(number=4)]
    batch = Consolidated(
        (left(9, "a", "newer", M1), left(7, "a", "older", M1), left(8, "b", "other", M2))
    )
    driven = drive(merge, task(Kind.LEARNER, history), batch)
    assert LearnerSealed(number=4, generation=5, training="none_configured") == driven.event
    assert (RUN, 4) == (driven.only(ReadBatch).run, driven.only(ReadBatch).number)
    write = driven.step.memory
    assert write is not None
    assert 5 == write.generation
    assert [(108, "other"), (109, "newer")] == [
        (question.int, candidate.text) for question, candidate in write.candidates
    ]
    assert [(107, M1), (108, M2), (109, M1)] == [(q.int, use.memory) for q, use in write.uses]


def test_an_empty_batch_still_seals_its_generation() -> None:
    """The next batch waits for the seal, not for memories."""
    history: list[Payload] = [
        LearnerStarted(),
        LearnerBatchReady(number=0),
        LearnerSealed(number=0, generation=1, training="promoted", policy="planner@v1"),
        LearnerBatchReady(number=1),
    ]
    driven = drive(merge, task(Kind.LEARNER, history), Consolidated(()))
    assert driven.event.policy == "planner@v1"
    assert driven.step.memory is not None
    assert ((), ()) == (driven.step.memory.candidates, driven.step.memory.uses)


def test_a_run_that_trains_is_not_sealed_by_its_merge() -> None:
    """The same memories are written; the trainer's decision comes before the seal."""
    at = task(Kind.LEARNER, [LearnerStarted(), LearnerBatchReady(number=4)], train=True)
    driven = drive(merge, at, Consolidated(()))
    assert LearnerMerged(number=4, generation=5) == driven.event
    assert driven.step.memory is not None
    assert 5 == driven.step.memory.generation


def test_a_live_batch_is_only_to_be_trained_on() -> None:
    """Its questions have written their memories themselves."""
    at = task(
        Kind.LEARNER, [LearnerStarted(), LearnerBatchReady(number=2)], mode="live", train=True
    )
    driven = drive(merge, at)
    assert (LearnerMerged(number=2, generation=3), None) == (driven.event, driven.step.memory)
