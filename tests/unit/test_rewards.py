"""Rewards: golden values of every formula, strict parsing, and nothing counted as 0 for want of a
judge.
"""

from typing import Any

import msgspec
import pytest

from mia_events.effects import RolloutTurns
from mia_events.learning.rewards import WEIGHTS, Parts, Weights, parts_of, reward
from schemas.events import RolloutFailed, RolloutJudged
from tests.support.groups import ended, recorded, reply, turns
from tests.support.histories import judged

SUPERVISED, UNSUPERVISED = WEIGHTS["supervised"], WEIGHTS["unsupervised"]


@pytest.mark.parametrize(
    "rollout,expected",
    [
        (ended(0, "correct", said="no"), 1.0),
        (ended(0, "correct", said="yes", first_grade="correct"), 0.95),
        (ended(0, "correct", said="yes", first_grade="incorrect"), 0.8),
        (ended(0, "incorrect", said="yes", first_grade="correct"), 0.25),
        (ended(0, "incorrect", said="yes", first_grade="not_attempted"), 0.1),
        (ended(0, "not_attempted", said="no"), 0.05),
        (ended(0, "correct", said="maybe"), 0.9),
        (ended(0, "incorrect", said="maybe"), 0.0),
    ],
)
def test_the_supervised_reward_is_that_of_the_paper(rollout: RolloutTurns, expected: float) -> None:
    """0.7 final + 0.2 first + 0.05 format + 0.05 decision."""
    assert pytest.approx(expected, abs=1e-15) == reward(parts_of(rollout), SUPERVISED)


@pytest.mark.parametrize(
    "grade,said,expected",
    [
        ("correct", "no", 1.0),
        ("correct", "perhaps", 0.9),
        ("incorrect", "yes", 0.1),
        ("incorrect", "perhaps", 0.0),
    ],
)
def test_the_unsupervised_reward_asks_for_the_final_answer_only(
    grade: Any, said: str, expected: float
) -> None:
    """0.9 final + 0.1 format; that nobody graded the first answer takes nothing away."""
    assert expected == reward(parts_of(ended(0, grade, said=said)), UNSUPERVISED)


def test_parts_are_kept_apart() -> None:
    """Each can be reported, and weighed anew."""
    parts = parts_of(ended(0, "correct", said="yes", first_grade="incorrect", searches=2))
    assert Parts(final=1.0, first=0.0, format=1.0, decision=1.0, tool=0.5) == parts
    assert reward(parts, Weights(final=0.5, tool=0.5, first=0, format=0, decision=0)) == 0.75


@pytest.mark.parametrize(
    "said", ["no, on second thought yes", "yes and no", "", "<think>no", "n o"]
)
def test_a_word_within_a_sentence_is_no_decision(said: str) -> None:
    """W-22: exactly one word after the thinking, or neither format nor decision is rewarded."""
    parts = parts_of(ended(0, "correct", said=said))
    assert (0.0, 0.0) == (parts.format, parts.decision)


@pytest.mark.parametrize("said", ["no", "No.", "<think>it is done</think>\nno"])
def test_thinking_and_a_full_stop_are_no_part_of_a_decision(said: str) -> None:
    """It is read as the rollout itself reads it."""
    parts = parts_of(ended(0, "correct", said=said))
    assert (1.0, 1.0) == (parts.format, parts.decision)


@pytest.mark.parametrize(
    "plan", ["", "<think>never closed", "closed</think> 1. Search.", "<think></think>"]
)
def test_a_plan_without_words_or_with_half_a_thought_has_no_format(plan: str) -> None:
    """Tags must match, and something must stand after them."""
    said = turns(0, ("plan", reply(plan)), ("reflect", reply("no")))
    assert parts_of(recorded(0, judged(0, "correct"), said)).format == 0.0


def test_a_turn_that_hit_its_limit_keeps_its_format() -> None:
    """It is shorter than it would have been, not malformed."""
    said = turns(0, ("plan", reply("1. Search", finish_reason="length")), ("reflect", reply("no")))
    assert parts_of(recorded(0, judged(0, "correct"), said)).format == 1.0


@pytest.mark.parametrize("grade,decision", [("correct", 1.0), ("incorrect", 0.0)])
def test_who_is_not_asked_has_decided_to_stop(grade: Any, decision: float) -> None:
    """A rollout without turns left ends as it stands."""
    said = turns(0, ("plan", reply("1. Search.")))
    assert decision == parts_of(recorded(0, judged(0, grade), said)).decision


@pytest.mark.parametrize("weights", WEIGHTS.values())
def test_what_was_not_judged_has_no_reward(weights: Weights) -> None:
    """W-12: neither a judge that failed, nor a rollout that died, nor a failed call of the planner
    counts as a wrong answer.
    """
    died = [*judged(0, "correct")[:-1], RolloutFailed(reason="timed_out")]
    said = turns(0, ("plan", reply("1. Search.")), ("reflect", reply("no")))
    broken = turns(0, ("plan", reply("", problem="error")), ("reflect", reply("no")))
    silent = [
        ended(0, "unjudged"),
        recorded(0, died, said),
        recorded(0, judged(0, "correct"), broken),
        recorded(0, judged(0, "correct"), ()),
    ]
    assert [None] * 4 == [reward(parts_of(rollout), weights) for rollout in silent]


def test_a_first_answer_that_nobody_could_grade_leaves_the_supervised_reward_open() -> None:
    """A part that counts is unknown, so the whole is."""
    parts = parts_of(ended(0, "correct", said="yes", first_grade="unjudged"))
    assert (None, None, None) == (parts.first, parts.decision, reward(parts, SUPERVISED))


def test_weights_are_checked_when_they_are_read() -> None:
    """A misspelt or negative weight is an error, not a part that never counts."""
    with pytest.raises(msgspec.ValidationError, match="finale"):
        msgspec.convert({"finale": 1.0}, Weights)
    with pytest.raises(msgspec.ValidationError, match="first"):
        msgspec.convert({"first": -1.0}, Weights)


def test_an_old_judgement_without_a_first_grade_still_reads() -> None:
    """Such a rollout has parts, though no supervised reward where it replanned."""
    assert RolloutJudged(grade="correct", judge="j").first_grade is None
    parts = parts_of(ended(0, "correct", said="yes"))
    assert (1.0, None) == (parts.final, parts.first)
