"""The reflect stage: at most one supplementary plan, and only on a plain yes."""

import pytest

from consumers.reflect.reflect import reflect
from mia_events.effects import Call, ModelReply
from mia_events.lifecycle import Kind
from schemas.events import (
    RolloutFinished,
    RolloutPlanned,
    RolloutProposed,
    RolloutReplanned,
    TurnAnswered,
)
from tests.support.drive import drive, task
from tests.support.histories import ANSWERED, Role, answered

YES, NO = ModelReply(text="yes"), ModelReply(text="No.")
REPLANNED = [*answered(searches=1), RolloutReplanned(plan="1. More.")]


def test_a_candidate_that_is_done_proposes_its_answer() -> None:
    """The planner sees question, plan and record, and decides unconstrained."""
    driven = drive(reflect, task(Kind.ROLLOUT, answered()), NO)
    assert RolloutProposed(answer="Scott") == driven.event
    call = driven.only(Call)
    assert (None, True, "planner") == (call.schema, call.capture_tokens, call.role)
    assert "turn 2 answered: Scott" in call.messages[-1].content


def test_a_sibling_that_is_done_finishes() -> None:
    """It goes to the judge by itself."""
    driven = drive(reflect, task(Kind.ROLLOUT, answered(role="sibling")), NO)
    assert RolloutFinished(answer="Scott") == driven.event


def test_a_yes_brings_one_supplementary_plan() -> None:
    """A second call writes it."""
    plan = ModelReply(text="<think>what failed</think>1. Search again.")
    driven = drive(reflect, task(Kind.ROLLOUT, answered()), YES, plan)
    assert RolloutReplanned(plan="1. Search again.") == driven.event
    decision, supplement = driven.asked
    assert decision.seed != supplement.seed


@pytest.mark.parametrize("text", ["no, on second thought yes", "yes and no", "", "<think>yes"])
def test_a_malformed_decision_ends_the_rollout(text: str) -> None:
    """A word somewhere in a sentence decides nothing."""
    driven = drive(reflect, task(Kind.ROLLOUT, answered()), ModelReply(text=text))
    expected = RolloutProposed(answer="Scott", problem="the decision was malformed")
    assert expected == driven.event


def test_a_yes_without_a_plan_ends_the_rollout() -> None:
    """There is nothing to go on with."""
    driven = drive(reflect, task(Kind.ROLLOUT, answered()), YES, ModelReply(text="  "))
    problem = "more work was wanted, but not planned"
    assert RolloutProposed(answer="Scott", problem=problem) == driven.event


def test_the_planner_is_told_how_many_turns_are_left() -> None:
    """A plan that cannot be carried out is of no use."""
    driven = drive(reflect, task(Kind.ROLLOUT, answered(), max_turns=5), YES, NO)
    told = [call.messages[-1].content.rsplit("\n", 1)[-1] for call in driven.asked]
    assert ["Turns left: 3.", "Turns left: 3."] == told


@pytest.mark.parametrize(
    "role,event", [("candidate", RolloutProposed), ("sibling", RolloutFinished)]
)
def test_without_turns_left_nobody_is_asked(role: Role, event: type) -> None:
    """A plan that cannot be carried out is not written."""
    driven = drive(reflect, task(Kind.ROLLOUT, answered(role=role, searches=2), max_turns=3))
    assert ([], event) == (driven.asked, type(driven.event))


def test_replans_are_bounded() -> None:
    """After the last allowed one the rollout ends with its newest answer."""
    history = [*REPLANNED, TurnAnswered(turn=3, text=ANSWERED, answer="Sir Walter")]
    driven = drive(reflect, task(Kind.ROLLOUT, history, max_replans=1))
    assert ([], RolloutProposed(answer="Sir Walter")) == (driven.asked, driven.event)


def test_an_earlier_answer_stands_when_the_second_phase_has_none() -> None:
    """Trying to improve an answer does not lose it."""
    history = [*REPLANNED, TurnAnswered(turn=3, text="", answer=None)]
    driven = drive(reflect, task(Kind.ROLLOUT, history, max_turns=3))
    assert RolloutProposed(answer="Scott") == driven.event


def test_a_long_record_keeps_its_end() -> None:
    """Steps get shorter instead of the answer getting lost."""
    history = answered(searches=40)
    content = drive(reflect, task(Kind.ROLLOUT, history, max_turns=60), NO).only(Call)
    record = content.messages[-1].content
    assert "turn 1: search" in record
    assert "turn 41 answered: Scott" in record
    assert len(record) < 9_000


def test_a_sibling_is_asked_about_its_own_work_only() -> None:
    """Rollouts of a question share nothing: each prompt is made of that rollout's history."""
    asked = []
    for number, plan in enumerate(("1. Ask the north.", "1. Ask the south.")):
        history = [
            RolloutPlanned(plan=plan) if isinstance(event, RolloutPlanned) else event
            for event in answered(number, "sibling")
        ]
        driven = drive(reflect, task(Kind.ROLLOUT, history), YES, ModelReply(text=plan + " Again."))
        asked.append(" ".join(call.messages[-1].content for call in driven.asked))
    assert [(True, False), (False, True)] == [("north" in one, "south" in one) for one in asked]
