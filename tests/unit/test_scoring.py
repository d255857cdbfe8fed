"""Answer scores against hand-computed values."""

import pytest

from mia_events.scoring import exact_match, normalise, token_f1


def test_normalising_removes_what_does_not_matter() -> None:
    """Case, punctuation, articles and spacing do not count."""
    assert normalise("  The Chief-of Protocol, a title. ") == "chiefof protocol title"


@pytest.mark.parametrize(
    "prediction,gold,expected",
    [("The Beatles", "beatles", 1.0), ("Beatles 1", "beatles", 0.0), ("", "the", 1.0)],
)
def test_exact_match(prediction: str, gold: str, expected: float) -> None:
    """Equal after normalisation, or not."""
    assert expected == exact_match(prediction, gold)


@pytest.mark.parametrize(
    "prediction,gold,expected",
    [
        ("Walter Scott", "Sir Walter Scott", 0.8),  # precision 1, recall 2/3
        ("Scott Scott", "Scott", 2 / 3),  # a repeated word counts once
        ("yes", "no", 0.0),
        ("", "no", 0.0),
        ("the", "a", 1.0),
    ],
)
def test_token_f1(prediction: str, gold: str, expected: float) -> None:
    """The harmonic mean of precision and recall over tokens."""
    assert expected == pytest.approx(token_f1(prediction, gold))
