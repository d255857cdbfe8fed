"""Rankings: the best rows of an array of scores, and one ranking made of several."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Scored", "best", "fused"]

#: Damps the first places, so that two rankings that agree outweigh one that is sure (Cormack,
#: Clarke and Buettcher 2009).
_DAMPING: Final = 60


class Scored(NamedTuple):
    """A passage's row and its score."""

    row: int
    score: float


def best(scores: npt.NDArray[np.float32], count: int, *, above: float) -> list[Scored]:
    """Return the `count` best rows that score more than `above`; equals keep their order."""
    count = min(count, len(scores))
    if count == 0:
        return []
    least = np.partition(scores, -count)[-count]
    rows = np.flatnonzero(scores > above if least <= above else scores >= least)
    order = np.lexsort((rows, -scores[rows]))[:count]
    return [Scored(int(row), float(scores[row])) for row in rows[order]]


def fused(rankings: Sequence[Sequence[Scored]], count: int) -> list[Scored]:
    """Return reciprocal rank fusion: a row scores the sum of 1 / (60 + place), places from 1."""
    scores: defaultdict[int, float] = defaultdict(float)
    for ranking in rankings:
        for place, scored in enumerate(ranking, 1):
            scores[scored.row] += 1 / (_DAMPING + place)
    order = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [Scored(row, score) for row, score in order[:count]]
