"""The best of scores, and one ranking made of two."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from ops.retrieval.ranking import Scored, best, fused


@given(
    arrays.arrays(np.float32, st.integers(0, 30), elements=st.sampled_from([0.0, 0.5, 1.0, 2.0])),
    st.integers(0, 40),
)
def test_the_best_are_those_of_a_stable_sort(scores: np.ndarray, count: int) -> None:
    """Ties, zeros and more wanted than there are change nothing."""
    order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    expected = [Scored(row, float(scores[row])) for row in order if scores[row] > 0][:count]
    assert expected == best(scores, count, above=0.0)


def test_with_no_floor_the_worst_are_ranked_too() -> None:
    """Inner products may be negative, and still one is the nearest."""
    scores = np.array([-0.5, -0.1, -0.9], dtype=np.float32)
    assert [1, 0] == [one.row for one in best(scores, 2, above=-np.inf)]


def test_what_both_rankings_have_comes_first() -> None:
    """Reciprocal ranks add up; equal sums keep the order of rows."""
    words = [Scored(1, 9.0), Scored(2, 8.0)]
    meaning = [Scored(3, 0.9), Scored(2, 0.8)]
    found = fused([words, meaning], 9)
    assert [2, 1, 3] == [one.row for one in found]
    assert [2 / 62, 1 / 61, 1 / 61] == [one.score for one in found]
    assert [2] == [one.row for one in fused([words, meaning], 1)]


def test_of_one_ranking_fusion_keeps_the_order() -> None:
    """A query without known words is ranked by meaning alone."""
    ranking = [Scored(row, 0.1) for row in (5, 3, 4)]
    assert [5, 3, 4] == [one.row for one in fused([[], ranking], 3)]
