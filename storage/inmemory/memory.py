"""Memories with exact search: every row of the scope is scored."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter, mul
from typing import Final, Literal
from uuid import UUID

from mia_events import ids
from mia_events.effects import Memories, Recall, Remembered
from mia_events.steps import MemoryWrite
from schemas.events import MemoryCandidate
from storage.inmemory.state import Credit, Database, MemoryRow

#: Below this cosine similarity a memory is not returned.
LEAST_SIMILARITY: Final = 0.2
#: The published defaults: score = 0.7 similarity + 0.3 win rate, counters starting at 1 / 1.
SIMILARITY_WEIGHT: Final = 0.7
WIN_WEIGHT: Final = 0.3


def write_memories(db: Database, write: MemoryWrite) -> int:
    """Write a generation and return its number.

    A key that exists gets a new version only for a text with fewer words; what several candidates
    for one key end in becomes one version.
    """
    newest = db.generations.get(write.scope, 0)
    generation = newest + 1 if write.generation is None else write.generation
    db.generations[write.scope] = max(newest, generation)
    for question, use in write.uses:
        db.credits.setdefault((use.memory, question), Credit(gen=generation, won=use.won))
    for question, candidate in _kept(db, write):
        _add_version(db, write.scope, generation, question, candidate)
    return generation


def _kept(db: Database, write: MemoryWrite) -> Iterable[tuple[UUID, MemoryCandidate]]:
    """The last candidate of each key that was shorter than everything before it."""
    kept: dict[str, tuple[UUID, MemoryCandidate]] = {}
    for question, candidate in write.candidates:
        before = kept.get(candidate.dedupe_key)
        row = _current(db, write.scope, candidate.dedupe_key)
        text = before[1].text if before else row.text if row else None
        if text is None or len(candidate.text.split()) < len(text.split()):
            kept[candidate.dedupe_key] = (question, candidate)
    return kept.values()


def _current(db: Database, scope: str, key: str) -> MemoryRow | None:
    rows = (m for m in db.memories if m.scope == scope and m.dedupe_key == key)
    return next((row for row in rows if row.until_gen is None), None)


def _add_version(
    db: Database, scope: str, generation: int, question: UUID, candidate: MemoryCandidate
) -> None:
    old = _current(db, scope, candidate.dedupe_key)
    if old is not None:
        old.until_gen = generation
    db.memories.append(
        MemoryRow(
            id=ids.memory_id(scope, candidate.dedupe_key), scope=scope,
            version=old.version + 1 if old else 1, dedupe_key=candidate.dedupe_key,
            outcome=candidate.outcome, text=candidate.text, question=candidate.question,
            vector=candidate.vector, causes=(question,), from_gen=generation,
        )  # fmt: skip
    )


class InMemoryMemories:
    """Twin of the memory store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def recall(self, request: Recall) -> Memories:
        """The best memories as of a generation: successes, then failures."""
        scored = [self._scored(row, request) for row in self._db.memories if _visible(row, request)]
        near = [pair for pair in scored if pair is not None]
        near.sort(key=lambda pair: (-pair[1].score, pair[0]))
        wanted: tuple[tuple[Literal["success", "failure"], int], ...] = (
            ("success", request.successes), ("failure", request.failures),
        )  # fmt: skip
        return Memories(
            tuple(
                item
                for outcome, count in wanted
                for item in [one for _, one in near if one.outcome == outcome][:count]
            )
        )

    def _scored(self, row: MemoryRow, request: Recall) -> tuple[str, Remembered] | None:
        similarity = sum(map(mul, row.vector, request.vector))
        if similarity < LEAST_SIMILARITY:
            return None
        score = SIMILARITY_WEIGHT * similarity + WIN_WEIGHT * self._win_rate(row.id, request)
        item = Remembered(
            id=row.id, version=row.version, text=row.text, question=row.question,
            outcome="success" if row.outcome == "success" else "failure", score=score,
        )  # fmt: skip
        return row.dedupe_key, item

    def _win_rate(self, memory: UUID, request: Recall) -> float:
        """(wins + 1) / (uses + 1) over the credits up to the generation."""
        credits = [
            credit
            for (of, _), credit in self._db.credits.items()
            if of == memory and (request.generation is None or credit.gen <= request.generation)
        ]
        return (sum(map(attrgetter("won"), credits)) + 1) / (len(credits) + 1)


def _visible(row: MemoryRow, request: Recall) -> bool:
    if row.scope != request.scope:
        return False
    if request.generation is None:
        return row.until_gen is None
    return row.from_gen <= request.generation and (
        row.until_gen is None or row.until_gen > request.generation
    )


__all__ = [
    "LEAST_SIMILARITY", "SIMILARITY_WEIGHT", "WIN_WEIGHT", "InMemoryMemories", "write_memories",
]  # fmt: skip
