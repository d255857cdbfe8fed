"""Memories as people look at them: lists as of any generation, one with all its versions, sums."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    import asyncpg

_Q = queries("memory_views")
_ALL = 2**31 - 1


class Listed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A memory as of a generation, with its record up to then."""

    id: UUID
    version: int
    outcome: str
    question: str
    text: str
    plan: str
    category: str
    caption: str
    data_id: str
    trust: str
    from_gen: int
    until_gen: int | None
    at: datetime
    uses: int
    wins: int
    vector: tuple[float, ...] = ()


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """A scope in numbers. `in_use`, of which `successes`, `failures`, `imported`, with `characters`
    of text; `versions` ever, of which `retired`, of which `evicted` for want of room; `uses` and
    `wins` are credits; `generation` is the newest, after `writes` writes.
    """

    in_use: int
    successes: int
    failures: int
    imported: int
    characters: int
    versions: int
    retired: int
    evicted: int
    uses: int
    wins: int
    generation: int
    writes: int


class MemoryViews:
    """Reads for people."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def listed(
        self, scope: str, *, as_of: int | None = None, limit: int = _ALL, vectors: bool = False
    ) -> list[Listed]:
        """A scope's memories as of a generation (None: now), newest first."""
        async with answering():
            rows = await self._pool.fetch(_Q["listed"], scope, as_of, limit, vectors)
        return [Listed(**{**row, "vector": _vector(row["vector"])}) for row in rows]

    async def story(self, memory: UUID) -> dict[str, Any]:
        """All versions of a memory and its credits. Raises `LookupError`."""
        async with answering():
            versions = await self._pool.fetch(_Q["versions"], memory)
            credits_ = await self._pool.fetch(_Q["credits"], memory)
        if not versions:
            message = f"no memory {memory}"
            raise LookupError(message)
        return {"versions": list(map(dict, versions)), "credits": list(map(dict, credits_))}

    async def stats(self, scope: str) -> Stats:
        """A scope in numbers; all zero for one that nobody wrote."""
        async with answering():
            row: Any = await self._pool.fetchrow(_Q["stats"], scope)
        return Stats(**{name: value or 0 for name, value in row.items()})


def _vector(text: str | None) -> tuple[float, ...]:
    return tuple(msgspec.json.decode(text, type=list[float])) if text else ()


__all__ = ["Listed", "MemoryViews", "Stats"]
