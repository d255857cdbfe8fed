"""Memories on pgvector: written in the transaction of the step that caused them, read by
generation.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mia_events import ids
from mia_events.effects import Memories, Recall, Remembered
from mia_events.memories import SIMILARITY_FLOOR, merge
from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from mia_events.steps import MemoryWrite
    from storage.postgres.pool import Connection

_Q = queries("memory")


def _vector(values: Sequence[float]) -> str:
    return "[" + ",".join(map(repr, values)) + "]"


async def write_memories(connection: Connection, write: MemoryWrite, *, cause: UUID) -> None:
    """Add a generation to a scope, inside the caller's transaction. `cause`: the step's event."""
    newest = await connection.fetchval(_Q["lock_scope"], write.scope)
    generation = write.generation if write.generation is not None else newest + 1
    keys = sorted({candidate.dedupe_key for _, candidate in write.candidates})
    rows = await connection.fetch(_Q["current"], write.scope, keys)
    current = {row["dedupe_key"]: (row["version"], row["text"]) for row in rows}
    versions = merge(current, write.candidates)
    if versions:
        await connection.execute(_Q["retire"], write.scope, list(versions), generation)
        added = list(versions.values())
        await connection.execute(
            _Q["insert"],
            write.scope,
            generation,
            datetime.now(UTC),
            [ids.memory_id(write.scope, v.candidate.dedupe_key) for v in added],
            [v.version for v in added],
            [v.candidate.dedupe_key for v in added],
            [v.candidate.outcome for v in added],
            [v.candidate.text for v in added],
            [v.candidate.question for v in added],
            [v.candidate.plan for v in added],
            [_vector(v.candidate.vector) for v in added],
            [",".join(map(str, (*v.causes, cause))) for v in added],
        )
    if write.uses:
        await connection.execute(
            _Q["credit"],
            generation,
            [use.memory for _, use in write.uses],
            [question for question, _ in write.uses],
            [use.won for _, use in write.uses],
        )
    await connection.execute(_Q["set_generation"], write.scope, generation)


class PostgresMemory:
    """The `MemoryStore` port. Exact search when the request names a generation to be reproduced or
    the scope is small; else the HNSW index with an iterative scan.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def recall(self, request: Recall) -> Memories:
        """See the port. An exact search orders ties by key, so equal memories give equal
        replies.
        """
        exact = request.generation is not None
        async with answering(), self._pool.acquire() as connection, connection.transaction():
            generation = request.generation
            if generation is None:
                generation = await connection.fetchval(_Q["newest"], request.scope) or 0
            # A plain scan for the exact query; an index scan that goes on until filters are met.
            setting = (
                "SET LOCAL enable_indexscan = off"
                if exact
                else ("SET LOCAL hnsw.iterative_scan = strict_order")
            )
            await connection.execute(setting)
            found = [
                _remembered(row)
                for outcome, limit in (
                    ("success", request.successes),
                    ("failure", request.failures),
                )
                for row in await connection.fetch(
                    _Q["recall_exact" if exact else "recall_indexed"],
                    request.scope,
                    _vector(request.vector),
                    generation,
                    outcome,
                    limit,
                    SIMILARITY_FLOOR,
                )
            ]
        return Memories(tuple(found))


def _remembered(row: Any) -> Remembered:
    return Remembered(
        id=row["id"],
        version=row["version"],
        text=row["text"],
        question=row["question"],
        outcome=row["outcome"],
        score=round(row["score"], 6),
    )


__all__ = ["PostgresMemory", "write_memories"]
