"""Memories with exact search: every row of the scope is scored."""

from __future__ import annotations

from operator import mul
from typing import Literal
from uuid import UUID

from mia_events import ids
from mia_events.effects import Memories, Recall, Remembered
from mia_events.memories import SIMILARITY_FLOOR, Version, merge, retrieval_score
from mia_events.steps import MemoryWrite
from storage.inmemory.state import Credit, Database, MemoryRow


def write_memories(db: Database, write: MemoryWrite, *, cause: UUID) -> None:
    """Add a generation to a scope; `cause` is the event of the step that writes it."""
    newest = db.generations.get(write.scope, 0)
    generation = newest + 1 if write.generation is None else write.generation
    db.generations[write.scope] = max(newest, generation)
    for question, use in write.uses:
        db.credits.setdefault((use.memory, question), Credit(gen=generation, won=use.won))
    current = {
        m.dedupe_key: m for m in db.memories if m.scope == write.scope and m.until_gen is None
    }
    texts = {key: (row.version, row.text) for key, row in current.items()}
    for key, version in merge(texts, write.candidates).items():
        if key in current:
            current[key].until_gen = generation
        db.memories.append(_row(write.scope, generation, version, cause))


def _row(scope: str, generation: int, version: Version, cause: UUID) -> MemoryRow:
    candidate = version.candidate
    return MemoryRow(
        id=ids.memory_id(scope, candidate.dedupe_key),
        scope=scope,
        version=version.version,
        dedupe_key=candidate.dedupe_key,
        outcome=candidate.outcome,
        text=candidate.text,
        question=candidate.question,
        vector=candidate.vector,
        causes=(*version.causes, cause),
        from_gen=generation,
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
            ("success", request.successes),
            ("failure", request.failures),
        )
        return Memories(
            tuple(
                item
                for outcome, count in wanted
                for item in [one for _, one in near if one.outcome == outcome][:count]
            )
        )

    def _scored(self, row: MemoryRow, request: Recall) -> tuple[str, Remembered] | None:
        similarity = round(sum(map(mul, row.vector, request.vector)), 6)
        if similarity < SIMILARITY_FLOOR:
            return None
        uses, wins = self._counters(row.id, request)
        score = round(retrieval_score(similarity, uses=uses, wins=wins), 6)
        item = Remembered(
            id=row.id,
            version=row.version,
            text=row.text,
            question=row.question,
            outcome="success" if row.outcome == "success" else "failure",
            score=score,
        )
        return row.dedupe_key, item

    def _counters(self, memory: UUID, request: Recall) -> tuple[int, int]:
        """Uses and wins over the credits up to the generation."""
        won = [
            credit.won
            for (of, _), credit in self._db.credits.items()
            if of == memory and (request.generation is None or credit.gen <= request.generation)
        ]
        return len(won), sum(won)


def _visible(row: MemoryRow, request: Recall) -> bool:
    if row.scope != request.scope:
        return False
    if request.generation is None:
        return row.until_gen is None
    return row.from_gen <= request.generation and (
        row.until_gen is None or row.until_gen > request.generation
    )


__all__ = ["InMemoryMemories", "write_memories"]
