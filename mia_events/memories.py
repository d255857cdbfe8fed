"""What becomes of memories: merging candidates into a generation, and the retrieval score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from schemas.events import MemoryCandidate

#: Weights of similarity and win rate, the published defaults.
SIMILARITY_WEIGHT: Final = 0.7
WIN_RATE_WEIGHT: Final = 0.3
#: Below this cosine a memory is not about the question at all and is not returned.
SIMILARITY_FLOOR: Final = 0.2


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A memory version to insert; `version` is 1 for a new key, else the one after the current."""

    version: int
    candidate: MemoryCandidate
    causes: tuple[object, ...]


def better(new: str, old: str) -> bool:
    """Whether `new` replaces `old` under one key: the shorter workflow, in words, wins."""
    return len(new.split()) < len(old.split())


def merge(
    current: Mapping[str, tuple[int, str]], candidates: Iterable[tuple[object, MemoryCandidate]]
) -> dict[str, Version]:
    """The versions that a generation adds, by dedupe key.

    `current` maps a key to its newest version's number and text; `candidates` come in order, each
    with its cause. Several under one key in one generation leave one version.
    """
    added: dict[str, Version] = {}
    for cause, candidate in candidates:
        key = candidate.dedupe_key
        number, text = current.get(key, (0, None))
        standing = added[key].candidate.text if key in added else text
        causes = (*(added[key].causes if key in added else ()), cause)
        if standing is None or better(candidate.text, standing):
            added[key] = Version(version=number + 1, candidate=candidate, causes=causes)
        elif key in added:
            added[key] = msgspec.structs.replace(added[key], causes=causes)
    return added


def retrieval_score(similarity: float, *, uses: int, wins: int) -> float:
    """0.7 · cosine + 0.3 · win rate, both on [0, 1] whatever else the store holds.

    The win rate is (wins + 1) / (uses + 1): the published counters start at one use and one win.
    """
    win_rate = (wins + 1) / (uses + 1)
    return SIMILARITY_WEIGHT * max(0.0, similarity) + WIN_RATE_WEIGHT * win_rate


__all__ = [
    "SIMILARITY_FLOOR",
    "SIMILARITY_WEIGHT",
    "WIN_RATE_WEIGHT",
    "Version",
    "better",
    "merge",
    "retrieval_score",
]
