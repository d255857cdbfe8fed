"""Memories on pgvector: written in the transaction of the step that caused them, read by
generation.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec

from mia_events import ids
from mia_events.effects import Memories, Recall, Remembered
from mia_events.memories import Standing, Version, merge, surplus
from mia_events.recall import (
    SIMILARITY_FLOOR,
    opening,
    question_words,
    retrieval_score,
    similarity,
    words,
)
from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import asyncpg

    from mia_events.steps import MemoryWrite
    from storage.postgres.pool import Connection

_Q = queries("memory")
#: Of every vector.
DIMENSIONS: Final = 384
#: Up to so many memories in use, a scope is searched exactly: a few milliseconds, and full recall
#: however small its share of the index is.
EXACT_UP_TO: Final = 10_000
#: How many memories each index brings, of each outcome; how hard the vector index looks for them.
_CANDIDATES: Final = 50
_EF_SEARCH: Final = "100"
_MAX_SCAN_TUPLES: Final = "40000"


def _vector(values: Sequence[float]) -> str:
    return "[" + ",".join(map(repr, values)) + "]"


async def write_memories(
    connection: Connection, write: MemoryWrite, *, run_no: int, cause: UUID
) -> None:
    """Add a generation to a scope, inside the caller's transaction. `cause`: the step's event."""
    scope = await connection.fetchrow(_Q["lock_scope"], write.scope)
    assert scope is not None
    generation = write.generation if write.generation is not None else scope["generation"] + 1
    versions = merge(await _standing(connection, write), write.candidates, generation)
    ended = await _insert(connection, write.scope, generation, versions, cause)
    if write.uses:
        await connection.execute(
            _Q["credit"],
            generation,
            [use.memory for _, use in write.uses],
            [question for question, _ in write.uses],
            [use.won for _, use in write.uses],
        )
    held = scope["held"] + len(versions) - ended
    if too_many := surplus(held, write.cap):
        held -= await connection.fetchval(_Q["evict"], write.scope, generation, too_many)
    await connection.execute(
        _Q["written"],
        write.scope,
        generation,
        held,
        scope["number"],
        run_no,
        cause,
        write.cap,
    )


async def _standing(connection: Connection, write: MemoryWrite) -> dict[str, Standing]:
    keys = {candidate.dedupe_key for _, candidate in write.candidates}
    wanted = [ids.memory_id(write.scope, key) for key in keys]
    rows = await connection.fetch(_Q["standing"], wanted) if wanted else []
    return {
        row["dedupe_key"]: Standing(
            version=row["version"],
            text=row["text"],
            from_gen=row["from_gen"],
            uses=row["uses"],
            wins=row["wins"],
        )
        for row in rows
    }


async def _insert(
    connection: Connection,
    scope: str,
    generation: int,
    versions: Mapping[str, Version],
    cause: UUID,
) -> int:
    """Write the versions; how many others they end."""
    if not versions:
        return 0
    added = list(versions.values())
    new = [version.candidate for version in added]
    memories = [ids.memory_id(scope, one.dedupe_key) for one in new]
    retired = await connection.execute(_Q["retire"], memories, generation)
    await connection.execute(
        _Q["insert"],
        scope,
        generation,
        datetime.now(UTC),
        memories,
        [version.version for version in added],
        [one.dedupe_key for one in new],
        [one.outcome for one in new],
        [one.text for one in new],
        [one.question for one in new],
        [one.plan for one in new],
        [one.category for one in new],
        [one.caption for one in new],
        [one.data_id for one in new],
        [one.trust for one in new],
        [_vector(one.vector) for one in new],
        [" ".join(words(f"{one.question} {one.caption} {one.text}")) for one in new],
        [version.uses for version in added],
        [version.wins for version in added],
        [",".join(map(str, dict.fromkeys((*version.causes, cause)))) for version in added],
    )
    return int(retired.rpartition(" ")[2])


class PostgresMemory:
    """The `MemoryStore` port. Every memory of a scope is scored when the request asks for that or
    the scope is small; else the indexes bring candidates, and those are scored.
    """

    def __init__(self, pool: asyncpg.Pool, *, exact_up_to: int = EXACT_UP_TO) -> None:
        self._pool = pool
        self._exact_up_to = exact_up_to

    async def recall(self, request: Recall) -> Memories:
        """See the port. Ties are ordered by key, so equal memories give equal replies."""
        async with answering(), self._pool.acquire() as connection, connection.transaction():
            scope = await connection.fetchrow(_Q["scope"], request.scope)
            if scope is None:
                return Memories(())
            if request.generation is None:
                request = msgspec.structs.replace(request, generation=scope["generation"])
            # A filter by trust is exact too: only what passes it is scored.
            small = scope["held"] <= self._exact_up_to
            if request.exact or small or request.trust:
                return await _exact(connection, request)
            found = await _candidates(connection, request)
            return _best(found, request) if found else await _exact(connection, request)


async def _exact(connection: Connection, request: Recall) -> Memories:
    rows = await connection.fetch(
        _Q["recall_exact"],
        request.scope,
        _vector(request.vector),
        request.generation,
        request.successes,
        request.failures,
        SIMILARITY_FLOOR,
        list(request.trust),
        list(question_words(request.text)),
        request.frequency,
    )
    return Memories(tuple(_remembered(row, row["score"]) for row in rows))


async def _candidates(connection: Connection, request: Recall) -> list[Any]:
    """What the indexes bring. Nothing when the vector index ran dry before it had enough, because
    few memories pass the filters or very many vectors are equal: then only exact search is right.
    """
    asked = question_words(request.text)
    await connection.execute(_Q["search_by_index"], _EF_SEARCH, _MAX_SCAN_TUPLES)
    rows: list[Any] = await connection.fetch(
        _Q["candidates"],
        request.scope,
        _vector(request.vector),
        request.generation,
        list(asked),
        opening(asked),
        _CANDIDATES,
    )
    await connection.execute(_Q["search_by_index_no_more"])
    reached = {row["outcome"]: row["reached"] for row in rows}
    wanted = {"success": request.successes, "failure": request.failures}
    dry = any(count and reached.get(of, 0) < _CANDIDATES for of, count in wanted.items())
    return [] if dry else rows


def _best(rows: Sequence[Any], request: Recall) -> Memories:
    """The candidates with the best scores, those above the floor only."""
    asked = len(question_words(request.text))
    scored: list[tuple[float, str, Any]] = []
    for row in rows:
        near = similarity(row["cosine"], shared=row["shared"], asked=asked)
        if near >= SIMILARITY_FLOOR:
            score = retrieval_score(
                near, uses=row["uses"], wins=row["wins"], frequency=request.frequency
            )
            scored.append((-score, row["dedupe_key"], row))
    scored.sort(key=lambda item: item[:2])
    return Memories(
        tuple(
            item
            for outcome, count in (("success", request.successes), ("failure", request.failures))
            for item in [
                _remembered(row, -score) for score, _, row in scored if row["outcome"] == outcome
            ][:count]
        )
    )


def _remembered(row: Any, score: float) -> Remembered:
    return Remembered(
        id=row["id"],
        version=row["version"],
        text=row["text"],
        question=row["question"],
        outcome=row["outcome"],
        score=score,
    )


__all__ = ["DIMENSIONS", "EXACT_UP_TO", "PostgresMemory", "write_memories"]
