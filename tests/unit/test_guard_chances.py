"""What docs/learning.md says of chance: how often a version that is truly worse is promoted."""

import random
import re
from pathlib import Path

import pytest

from mia_events.learning.guard import GuardRules, Scores, decide

_DOCS = Path(__file__).parents[2] / "docs" / "learning.md"
_ROW = re.compile(r"^\| (\d+) \| (\d+) % \| (\d+) % \| (\d+) % \| (\d+) % \|$", re.MULTILINE)
_TABLE = [tuple(map(int, row)) for row in _ROW.findall(_DOCS.read_text())]
_ROUNDS, _ATTEMPTS, _RIGHT = 2_000, 2, 0.5
#: Points; a share of so many rounds has a standard error of one.
_NEAR = 4


def _scores(chance: random.Random, anchors: int, right: float) -> Scores:
    attempts = range(_ATTEMPTS)
    return Scores(
        rewards={
            str(anchor): sum(chance.random() < right for _ in attempts) / _ATTEMPTS
            for anchor in range(anchors)
        }
    )


def test_there_is_a_table() -> None:
    """Else nothing below was asked."""
    assert [8, 16, 32] == [row[0] for row in _TABLE]


@pytest.mark.parametrize("anchors, told", [(row[0], row[1:]) for row in _TABLE])
def test_the_chances_are_as_told(anchors: int, told: tuple[int, ...]) -> None:
    """By the rules' defaults, each column 0.1 worse than the one before."""
    chance = random.Random(anchors)
    for tenths, expected in enumerate(told):
        found = sum(
            "promoted"
            == decide(
                _scores(chance, anchors, _RIGHT - tenths / 10),
                _scores(chance, anchors, _RIGHT),
                rules=GuardRules(),
                anchors=anchors,
            ).verdict
            for _ in range(_ROUNDS)
        )
        assert abs(100 * found / _ROUNDS - expected) <= _NEAR
