"""Digests: what changes them, and what does not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.digest import MemoryLine, QuestionLine, content_hash, run_digest

_QUESTION = QuestionLine(
    position=0,
    source="s",
    row="1",
    pass_no=0,
    status="answered",
    official=1,
    answer="Paris",
    grade="correct",
)
_MEMORY = MemoryLine(
    dedupe_key="k",
    version=1,
    content=content_hash(question="q", text="t"),
    outcome="success",
    from_gen=1,
    until_gen=None,
    uses=2,
    wins=1,
)


def test_the_digest_is_fixed() -> None:
    """A change of its definition is a change of every committed digest."""
    expected = "ae6e75b04ae22789a35ef2ee20d4c6a0f46fd6912581bdecec3884bab6afbb29"
    assert expected == run_digest([_QUESTION], [_MEMORY])


@given(st.permutations(range(6)))
def test_the_order_in_which_rows_are_read_does_not_matter(order: list[int]) -> None:
    """Questions count by position, memories by key and version."""
    questions = [msgspec.structs.replace(_QUESTION, position=n) for n in range(6)]
    memories = [
        msgspec.structs.replace(_MEMORY, dedupe_key=f"k{n // 2}", version=n % 2) for n in range(6)
    ]
    expected = run_digest(questions, memories)
    assert expected == run_digest([questions[n] for n in order], [memories[n] for n in order])


@pytest.mark.parametrize(
    "change",
    [
        {"position": 1}, {"source": "t"}, {"row": "2"}, {"pass_no": 1}, {"status": "failed"},
        {"official": None}, {"answer": "Lyon"}, {"grade": "incorrect"},
    ],
)  # fmt: skip
def test_every_part_of_an_outcome_counts(change: dict[str, object]) -> None:
    """Another outcome is another digest."""
    other = msgspec.structs.replace(_QUESTION, **change)
    assert run_digest([_QUESTION], []) != run_digest([other], [])


@pytest.mark.parametrize(
    "change",
    [
        {"dedupe_key": "l"}, {"version": 2}, {"content": content_hash(question="q", text="u")},
        {"outcome": "failure"}, {"from_gen": 2}, {"until_gen": 3}, {"uses": 3}, {"wins": 2},
    ],
)  # fmt: skip
def test_every_part_of_a_memory_counts(change: dict[str, object]) -> None:
    """Another memory is another digest."""
    other = msgspec.structs.replace(_MEMORY, **change)
    assert run_digest([], [_MEMORY]) != run_digest([], [other])


def test_question_and_text_cannot_be_shifted_into_each_other() -> None:
    """The two parts of a memory's content are kept apart."""
    assert content_hash(question="ab", text="c") != content_hash(question="a", text="bc")
