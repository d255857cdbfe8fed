"""Memories with exact search: every row of the scope is scored."""

from __future__ import annotations

from operator import mul
from typing import Literal
from uuid import UUID

from mia_events import ids
from mia_events.effects import Memories, Recall, Remembered
from mia_events.memories import Standing, Version, merge, strength, surplus
from mia_events.recall import SIMILARITY_FLOOR, question_words, retrieval_score, similarity, words
from mia_events.steps import MemoryWrite
from storage.inmemory.state import Credit, Database, MemoryRow


def write_memories(db: Database, write: MemoryWrite, *, cause: UUID) -> None:
    """Add a generation to a scope; `cause` is the event of the step that writes it."""
    newest = db.generations.get(write.scope, 0)
    generation = newest + 1 if write.generation is None else write.generation
    db.generations[write.scope] = max(newest, generation)
    for question, use in write.uses:
        db.credits.setdefault((use.memory, question), Credit(gen=generation, won=use.won))
    for version in merge(_standing(db, write), write.candidates, generation).values():
        row = _row(write.scope, generation, version, cause)
        before = db.newest.get(row.id)
        if before is not None and before.until_gen is None:
            before.until_gen = generation
        db.newest[row.id] = row
        db.memories.append(row)
    if write.cap is not None and len(db.newest) > write.cap:
        _evict(db, write.scope, generation, write.cap)


def _standing(db: Database, write: MemoryWrite) -> dict[str, Standing]:
    found = {
        candidate.dedupe_key: db.newest.get(ids.memory_id(write.scope, candidate.dedupe_key))
        for _, candidate in write.candidates
    }
    return {
        key: Standing(
            version=row.version,
            text=row.text if row.until_gen is None else None,
            from_gen=row.from_gen,
            uses=row.brought_uses,
            wins=row.brought_wins,
        )
        for key, row in found.items()
        if row is not None
    }


def _evict(db: Database, scope: str, generation: int, cap: int) -> None:
    """Retire the weakest, never those of the generation that is being written."""
    held = [row for row in db.newest.values() if row.scope == scope and row.until_gen is None]
    older = [row for row in held if row.from_gen < generation]
    older.sort(key=lambda row: _strength(db, row))
    for row in older[: surplus(len(held), cap)]:
        row.until_gen = generation


def _strength(db: Database, row: MemoryRow) -> tuple[float, int, str]:
    uses, wins = _counters(db, row, None)
    return strength(uses=uses, wins=wins, from_gen=row.from_gen, key=row.dedupe_key)


def _counters(db: Database, row: MemoryRow, generation: int | None) -> tuple[int, int]:
    """Uses and wins: what the memory brought, and the credits up to a generation."""
    won = [
        credit.won
        for (of, _), credit in db.credits.items()
        if of == row.id and (generation is None or credit.gen <= generation)
    ]
    return row.brought_uses + len(won), row.brought_wins + sum(won)


def _row(scope: str, generation: int, version: Version, cause: UUID) -> MemoryRow:
    candidate = version.candidate
    text = f"{candidate.question} {candidate.caption} {candidate.text}"
    return MemoryRow(
        id=ids.memory_id(scope, candidate.dedupe_key),
        scope=scope,
        version=version.version,
        dedupe_key=candidate.dedupe_key,
        outcome=candidate.outcome,
        text=candidate.text,
        question=candidate.question,
        vector=candidate.vector,
        words=frozenset(words(text)),
        trust=candidate.trust,
        brought_uses=version.uses,
        brought_wins=version.wins,
        causes=tuple(dict.fromkeys((*version.causes, cause))),
        from_gen=generation,
    )


class InMemoryMemories:
    """Twin of the memory store."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def recall(self, request: Recall) -> Memories:
        """The best memories as of a generation: successes, then failures."""
        asked = question_words(request.text)
        rows = [row for row in self._db.memories if _visible(row, request)]
        scored = [self._scored(row, request, asked) for row in rows]
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

    def _scored(
        self, row: MemoryRow, request: Recall, asked: tuple[str, ...]
    ) -> tuple[str, Remembered] | None:
        cosine = sum(map(mul, row.vector, request.vector))
        near = similarity(cosine, shared=len(row.words.intersection(asked)), asked=len(asked))
        if near < SIMILARITY_FLOOR:
            return None
        uses, wins = _counters(self._db, row, request.generation)
        item = Remembered(
            id=row.id,
            version=row.version,
            text=row.text,
            question=row.question,
            outcome="success" if row.outcome == "success" else "failure",
            score=retrieval_score(near, uses=uses, wins=wins, frequency=request.frequency),
        )
        return row.dedupe_key, item


def _visible(row: MemoryRow, request: Recall) -> bool:
    if row.scope != request.scope or (request.trust and row.trust not in request.trust):
        return False
    if request.generation is None:
        return row.until_gen is None
    return row.from_gen <= request.generation and (
        row.until_gen is None or row.until_gen > request.generation
    )


__all__ = ["InMemoryMemories", "write_memories"]
