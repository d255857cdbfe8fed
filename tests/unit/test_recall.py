"""The retrieval score: its words, its weights and its scale."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.recall import opening, question_words, retrieval_score, similarity, words


def test_words_are_without_case_and_without_those_that_say_nothing() -> None:
    """Each once, in order, whatever the script."""
    assert ("rhine", "longer", "elbe", "2nd") == words("Is the RHINE longer than the Elbe, 2nd?")
    assert ("grösse", "東京") == words("Größe? 東京!")
    assert () == words("who is it?")


def test_a_word_that_no_index_takes_is_no_word() -> None:
    """Endless text without a space is left out."""
    assert ("short",) == words("x" * 65 + " short")


def test_of_a_long_question_the_first_words_are_looked_for() -> None:
    """32 of them."""
    text = " ".join(f"w{n}" for n in range(100))
    assert tuple(f"w{n}" for n in range(32)) == question_words(text)


def test_a_memory_is_opened_by_two_shared_words() -> None:
    """Or by the only word; the longest six count."""
    assert "" == opening(())
    assert "'rhine'" == opening(("rhine",))
    assert "'longer' & 'rhine' | 'longer' & 'elbe' | 'rhine' & 'elbe'" == opening(
        ("elbe", "rhine", "longer")
    )
    assert 15 == opening(tuple(f"w{n}" for n in range(32))).count("&")


@given(text=st.text())
def test_whatever_is_asked_the_opening_is_a_query(text: str) -> None:
    """No quote or operator of the question gets into it."""
    for word in words(text):
        assert not set(word) & set("'\\&|!()<>: \x00")


def test_the_published_weights() -> None:
    """0.7 similarity + 0.3 win rate, counters from one use and one win."""
    assert pytest.approx(0.7 * 0.5 + 0.3) == retrieval_score(0.5, uses=0, wins=0)
    assert pytest.approx(0.7 * 0.5 + 0.3 * 2 / 5) == retrieval_score(0.5, uses=4, wins=1)


def test_the_papers_terms_from_counters_of_zero_are_the_default() -> None:
    """0.3 w / (u + 1) + 0.3 / (u + 1) is 0.3 times our win rate; the option comes on top."""
    uses, wins = 7, 3
    paper = 0.7 * 0.5 + 0.3 * wins / (uses + 1) + 0.3 / (uses + 1)
    assert pytest.approx(paper) == retrieval_score(0.5, uses=uses, wins=wins)
    more = retrieval_score(0.5, uses=uses, wins=wins, frequency=0.3)
    assert pytest.approx(paper + 0.3 / (uses + 1)) == more


_SHARES = st.floats(0, 1)


@given(cosine=st.floats(-1, 1), shared=st.integers(0, 5), asked=st.integers(0, 5))
def test_a_similarity_is_between_none_and_all(cosine: float, shared: int, asked: int) -> None:
    """Whatever the words."""
    assert 0 <= similarity(cosine, shared=min(shared, asked), asked=asked) <= 1


@given(near=_SHARES, uses=st.integers(0, 99), wins=st.integers(0, 99))
def test_a_score_says_how_far_apart_memories_can_be(near: float, uses: int, wins: int) -> None:
    """A record never lifts what is not similar above what is: 0.3 is all that it can add."""
    score = retrieval_score(near, uses=uses, wins=min(uses, wins))
    assert 0.7 * near - 1e-5 <= score <= 0.7 * near + 0.3 + 1e-5
