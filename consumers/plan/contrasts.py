"""What the router judges plans by: what worked and what failed for one and the same question."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from mia_events.effects import Memories, Remembered

#: Looked among for pairs, of each outcome.
SOUGHT = 8
_PAIRS = 2


def contrasts(memories: Memories) -> Memories:
    """Two pairs at most, the nearest questions first, each a success and a failure of its question.

    Where there are fewer, what is left of the best takes their place, each by itself.
    """
    failures = _first_by_question(one for one in memories.items if one.outcome == "failure")
    successes = _first_by_question(one for one in memories.items if one.outcome == "success")
    pairs = [(one, failures[name]) for name, one in successes.items() if name in failures]
    pairs.sort(key=lambda pair: (-pair[0].score - pair[1].score, pair[0].question))
    told = list(chain.from_iterable(pairs[:_PAIRS]))
    lonely = _PAIRS - len(pairs[:_PAIRS])
    for kind in (successes, failures):
        told += [one for one in kind.values() if one not in told][:lonely]
    return Memories(tuple(told))


def _first_by_question(found: Iterable[Remembered]) -> dict[str, Remembered]:
    """The best of each question, best first as they came."""
    first: dict[str, Remembered] = {}
    for one in found:
        first.setdefault(one.question, one)
    return first


__all__ = ["SOUGHT", "contrasts"]
