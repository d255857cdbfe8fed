"""Planner prompts fit into training rows before they are sampled; nothing is cut afterwards."""

from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.plan.write import write_plan
from consumers.planner_prompt import Piece, fixed, planner_dialogue
from consumers.reflect.reflect import reflect
from mia_events.effects import Call, Memories, ModelReply, Remembered, Vectors
from mia_events.learning.job import Hyper
from mia_events.lifecycle import Kind
from mia_events.quoting import quote
from mia_events.steps import Poison, Task
from mia_events.tokens import bound_tokens, prose_tokens
from tests.support.drive import QUESTION, ROLES, VECTOR, drive, task
from tests.support.histories import answered, opened

ROW = 512
REPLY = 96
PLANNER = msgspec.structs.replace(ROLES["planner"], max_tokens=REPLY)


def training(history: list, row: int = ROW) -> Task:  # type: ignore[type-arg]
    """A rollout's command in a run that trains on rows of this length."""
    return task(
        Kind.ROLLOUT, history, train=True, hyper=Hyper(row_tokens=row),
        roles={**ROLES, "planner": PLANNER},
    )  # fmt: skip


def note(number: int, text: str) -> Remembered:
    """A memory of a success."""
    return Remembered(
        id=UUID(int=number), version=1, text=text, question="Who?", outcome="success", score=1.0
    )


def planned(at: Task, *memories: Remembered) -> Call:
    """What the planner is asked."""
    reply = ModelReply(text="1. Search.")
    driven = drive(write_plan, at, Vectors((VECTOR,)), Memories(memories), reply)
    request = driven.only(Call)
    assert isinstance(request, Call)
    return request


def size(request: Call) -> int:
    """More tokens than the prompt and the reply can have."""
    system, user = (message.content for message in request.messages)
    return prose_tokens(system) + bound_tokens(user) + request.max_tokens


def test_a_prompt_that_fits_is_left_alone() -> None:
    """The same messages as in a run that does not train."""
    memory = note(1, "1. Search for the author.")
    alone = task(Kind.ROLLOUT, opened())
    assert planned(alone, memory).messages == planned(training(opened(), 4_096), memory).messages


@given(st.lists(st.text(min_size=1, max_size=3_000), max_size=4))
def test_a_plans_prompt_fits_whatever_was_remembered(texts: list[str]) -> None:
    """Prompt and reply are within the row; instructions and question are whole."""
    at = training(opened())
    request = planned(at, *(note(number, text) for number, text in enumerate(texts)))
    assert size(request) <= ROW
    assert at.run.manifest.prompts["plan"] == request.messages[0].content
    assert quote("question", QUESTION.text) in request.messages[1].content


def test_notes_are_shortened_together() -> None:
    """None is lost while there is room for a little of each."""
    request = planned(training(opened(), 768), note(1, "alpha " * 200), note(2, "beta " * 200))
    user = request.messages[1].content
    assert "alpha" in user
    assert "beta" in user
    assert size(request) <= 768


def test_a_reflections_prompt_fits_however_long_the_record_is() -> None:
    """Plan and record give way, the question and what is to be decided do not."""
    at = training(answered(searches=4))
    driven = drive(reflect, at, ModelReply(text="no"))
    request = driven.only(Call)
    assert size(request) <= ROW
    user = request.messages[1].content
    assert quote("question", QUESTION.text) in user
    assert '<data name="record">' in user
    assert "Turns left" in user


def test_a_row_that_is_too_short_for_the_instructions_is_refused() -> None:
    """The message says what to change."""
    with pytest.raises(Poison, match="--row-tokens"):
        planned(training(opened(), 160))


def test_what_matters_least_goes_first() -> None:
    """A higher rank is gone before a lower one loses anything."""
    at = training(opened(), 220)
    pieces = [
        Piece(render=lambda limit: "k" * limit, most=60, rank=2),
        Piece(render=lambda limit: "x" * limit, most=900, rank=3),
        fixed("end"),
    ]
    (_, user) = planner_dialogue(at, "s", pieces)
    assert "k" * 60 in user.content
    assert "x" * 900 not in user.content
    assert user.content.endswith("end")


def test_a_reply_that_hit_its_limit_stays_a_plan() -> None:
    """A long turn is truncated, and its rollout goes on: it does not vanish."""
    long = ModelReply(text="1. Search for Waverley.\n2. Compare the", finish_reason="length")
    driven = drive(write_plan, training(opened()), Vectors((VECTOR,)), Memories(()), long)
    assert ("1. Search for Waverley.", "") == (driven.event.plan, driven.event.problem)


def test_the_bound_counts_what_vocabularies_give_a_token_each() -> None:
    """Digits, marks and foreign bytes count alone, letters in pairs."""
    assert bound_tokens("ab cd") < bound_tokens("12345")
    assert 8 + 6 == bound_tokens("漢字")
    assert 8 + 2 == bound_tokens("abcd")
