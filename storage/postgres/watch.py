"""What people look at: events as they come, questions and memories as they stand. Reads only."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec

from mia_events.lifecycle import Kind
from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    from collections.abc import Sequence

    import asyncpg

__all__ = ["Feed", "MemoryRow", "PostgresWatch", "QuestionRow", "SeenEvent", "Standing"]

_Q = queries("watch")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# An event carries the time of its worker before the commit: this late may it become visible.
_SLACK = timedelta(seconds=90)


class SeenEvent(msgspec.Struct, frozen=True, kw_only=True):
    """An event as the ledger has it; `body` is None once its payload was erased."""

    id: UUID
    stream: UUID
    seq: int
    kind: Kind
    type: str
    at: datetime
    correlation: UUID | None
    body: bytes | None


class QuestionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A question and what became of it."""

    id: UUID
    pos: int
    batch: int | None
    source: str
    row: str
    status: str
    answer: str | None
    reason: str | None
    grade: str | None
    official: int | None
    g: int
    closed: bool
    text: str | None


class MemoryRow(msgspec.Struct, frozen=True, kw_only=True):
    """The newest version of a memory, with its record."""

    id: UUID
    version: int
    outcome: str
    question: str
    text: str
    from_gen: int
    at: datetime
    uses: int
    wins: int


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far the questions of a source are. `graded`: by a judge, whatever the grade."""

    accepted: int
    ended: int
    answered: int
    failed: int
    correct: int
    graded: int
    lag: int


class PostgresWatch:
    """Reads for people. `gold` needs the auditor's role."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def events(
        self, run_no: int, since: datetime, types: Sequence[str] = ()
    ) -> list[SeenEvent]:
        """A run's events from `since` on, of `types` (all for none), oldest first."""
        async with answering():
            rows = await self._pool.fetch(_Q["events"], run_no, since, list(types))
        return [SeenEvent(**{**row, "kind": Kind(row["kind"])}) for row in rows]

    async def questions(self, run_no: int) -> list[QuestionRow]:
        """A run's questions by position."""
        async with answering():
            rows = await self._pool.fetch(_Q["questions"], run_no)
        return [QuestionRow(**row) for row in rows]

    async def gold(self, run_no: int) -> dict[UUID, str]:
        """The labels of a run's questions."""
        async with answering():
            rows = await self._pool.fetch(_Q["gold"], run_no)
        return {row["question"]: row["value"] for row in rows}

    async def memories(self, scope: str, limit: int) -> list[MemoryRow]:
        """A scope's newest memories."""
        async with answering():
            rows = await self._pool.fetch(_Q["memories"], scope, limit)
        return [MemoryRow(**row) for row in rows]

    async def standing(self, run_no: int, source: str) -> Standing:
        """How far the questions of a source are."""
        async with answering():
            (row,) = await self._pool.fetch(_Q["standing"], run_no, source)
        return Standing(**row)

    async def labels(self, questions: Sequence[UUID]) -> Counter[UUID]:
        """How many labels each of some questions has."""
        async with answering():
            rows = await self._pool.fetch(_Q["labels"], list(questions))
        return Counter({row["question"]: row["n"] for row in rows})

    async def waiting_facts(self) -> int:
        """How many outbound facts the broker has not acknowledged yet."""
        async with answering():
            count: int = await self._pool.fetchval(_Q["waiting_facts"])
        return count


class Feed:
    """Each event of a run once, soon after its commit."""

    def __init__(self, watch: PostgresWatch, run_no: int, types: Sequence[str] = ()) -> None:
        self._watch, self._run_no, self._types = watch, run_no, types
        self._since = _EPOCH
        self._seen: dict[UUID, datetime] = {}

    async def fresh(self) -> list[SeenEvent]:
        """What was committed since the last call."""
        found = await self._watch.events(self._run_no, self._since, self._types)
        new = [event for event in found if event.id not in self._seen]
        self._seen.update((event.id, event.at) for event in new)
        if found:
            self._since = max(self._since, found[-1].at - _SLACK)
            self._seen = {id_: at for id_, at in self._seen.items() if at >= self._since}
        return new
