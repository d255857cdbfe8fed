"""The ledger as an auditor reads it: whole runs, from one snapshot, read-only (role
`mia_audit`).
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec

from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Sequence

_Q = queries("audit")
_PREFETCH = 5_000


class _Row(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A row of a table, its columns under their names."""


_R = TypeVar("_R", bound=_Row)


class RunRow(_Row, frozen=True):
    """A run with its counters."""

    run_no: int
    id: UUID
    name: str
    scope: str
    mode: str
    state: str
    rollouts: int
    batch_size: int
    lag: int
    version: int
    head: bytes
    sealed_gen: int
    accepted: int
    opened: int
    ended: int
    policy: str = "base"
    trains: bool = False


class EventRow(_Row, frozen=True):
    """An event; `body` is None when its payload was erased."""

    run_no: int
    stream: UUID
    seq: int
    id: UUID
    kind: int
    type: str
    topic: str | None
    at: datetime
    cause: UUID | None
    correlation: UUID | None
    claim: int | None
    attempt: int | None
    body_sha: bytes
    hash: bytes
    body: bytes | None


class QuestionRow(_Row, frozen=True):
    """What projects from a question's events."""

    id: UUID
    pos: int
    batch: int | None
    source: str
    row: str
    pass_no: int
    status: str
    g: int
    planned: int
    ended: int
    candidate: int | None
    official: int | None
    answer: str | None
    reason: str | None
    grade: str | None
    closed: bool
    head: bytes


class RolloutRow(_Row, frozen=True):
    """What projects from a rollout's events."""

    id: UUID
    question: UUID
    number: int
    phase: int
    outcome: str | None


class BatchRow(_Row, frozen=True):
    """What projects from a batch's events and its questions."""

    id: UUID
    number: int
    status: str
    size: int
    ended: int
    generation: int | None
    policy: str | None
    version: int
    head: bytes


class ActiveRow(_Row, frozen=True):
    """An unfinished stream; `pending` is its last event."""

    stream: UUID
    kind: int
    status: str
    version: int
    head: bytes
    pending: UUID | None
    topic: str | None
    parent: UUID | None
    claim: int | None


class EffectRow(_Row, frozen=True):
    """A recorded effect; `result` is there for retrievals only, unless all were asked for."""

    event_id: UUID
    ordinal: int
    kind: str
    sealed: bool
    result: bytes | None


class LetterRow(_Row, frozen=True):
    """A dead letter, by the SHA-256 of its bytes."""

    id: UUID
    message: str
    sha256: bytes


class LabelRow(_Row, frozen=True):
    """A label without its value."""

    id: UUID
    question: UUID
    commitment: bytes


class GoldRow(_Row, frozen=True):
    """A sealed label's value."""

    question: UUID
    value: str


class MemoryRow(_Row, frozen=True):
    """A memory version; the last of `causes` is the event that wrote it."""

    id: UUID
    version: int
    dedupe_key: str
    outcome: str
    text: str
    question: str
    causes: Sequence[UUID]
    from_gen: int
    until_gen: int | None
    trust: str = "distilled"
    brought_uses: int = 0
    brought_wins: int = 0


class WriteRow(_Row, frozen=True):
    """A write of a scope, `number` by `number`; `stream` and `body` are those of its event, the
    body only when that is another run's. `stream` is None when the event is gone.
    """

    number: int
    generation: int
    run_no: int
    event_id: UUID
    cap: int | None
    stream: UUID | None
    body: bytes | None = None


class VersionRow(_Row, frozen=True):
    """A registered planner version."""

    number: int
    name: str
    parent: str
    batch: int
    state: str
    adapter_sha: bytes
    optimizer_sha: bytes
    data_sha: bytes
    event_id: UUID


class GroupRow(_Row, frozen=True):
    """A group that a batch used up."""

    question: UUID
    batch: int


class CreditRow(_Row, frozen=True):
    """One question's credit for a memory."""

    memory: UUID
    question: UUID
    gen: int
    won: bool


class History(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the ledger says about a run. Events come stream by stream, in order; `gold`
    is empty unless it was asked for.
    """

    run: RunRow
    events: tuple[EventRow, ...]
    questions: tuple[QuestionRow, ...] = ()
    rollouts: tuple[RolloutRow, ...] = ()
    batches: tuple[BatchRow, ...] = ()
    active: tuple[ActiveRow, ...] = ()
    effects: tuple[EffectRow, ...] = ()
    outbox: frozenset[UUID] = frozenset()
    letters: tuple[LetterRow, ...] = ()
    labels: tuple[LabelRow, ...] = ()
    memories: tuple[MemoryRow, ...] = ()
    credits: tuple[CreditRow, ...] = ()
    writes: tuple[WriteRow, ...] = ()
    versions: tuple[VersionRow, ...] = ()
    groups: tuple[GroupRow, ...] = ()
    gold: tuple[GoldRow, ...] = ()


class AuditReader:
    """Named read-only queries over one connection."""

    def __init__(self, connection: asyncpg.Connection[Any]) -> None:
        self._connection = connection

    @classmethod
    @asynccontextmanager
    async def connect(cls, dsn: str) -> AsyncIterator[AuditReader]:
        """A reader that cannot write. Raises `Unavailable`."""
        settings = {
            "application_name": "mia audit",
            "jit": "off",
            "default_transaction_read_only": "on",
        }
        async with answering():
            connection = await asyncpg.connect(dsn, timeout=10, server_settings=settings)
        try:
            yield cls(connection)
        finally:
            await connection.close(timeout=5)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[None]:
        """Inside, every query sees the same moment."""
        async with (
            answering(),
            self._connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            yield

    async def runs(self) -> tuple[RunRow, ...]:
        """Every run, also run 0, which holds what belongs to none."""
        return await self._rows("runs", RunRow)

    async def topics(self) -> dict[str, datetime]:
        """When each topic was last made."""
        async with answering():
            rows = await self._connection.fetch(_Q["topics"])
        return {row["name"]: row["created_at"] for row in rows}

    async def history(self, run: RunRow, *, labels: bool = False) -> History:
        """A run as it stands, inside a snapshot. `labels`: also what a search for gold values
        needs.
        """
        number = run.run_no
        return History(
            run=run,
            events=await self._rows("events", EventRow, number),
            questions=await self._rows("questions", QuestionRow, number),
            rollouts=await self._rows("rollouts", RolloutRow, number),
            batches=await self._rows("batches", BatchRow, number),
            active=await self._rows("active", ActiveRow, number),
            effects=await self._rows("effects", EffectRow, number, labels),
            outbox=frozenset(await self._column("outbox", number)),
            letters=await self._rows("letters", LetterRow, number),
            labels=await self._rows("labels", LabelRow, number),
            memories=await self._rows("memories", MemoryRow, run.scope),
            credits=await self._rows("credits", CreditRow, run.scope),
            writes=await self._rows("writes", WriteRow, run.scope, number),
            versions=await self._rows("versions", VersionRow, number),
            groups=await self._rows("groups", GroupRow, number),
            gold=await self._rows("gold", GoldRow, number) if labels else (),
        )

    async def events_named(
        self, runs: Collection[int], ids: Collection[UUID]
    ) -> tuple[EventRow, ...]:
        """Events by id, without their payloads."""
        return await self._rows("events_named", EventRow, list(runs), list(ids))

    async def letters_of(self, digests: Collection[bytes]) -> frozenset[bytes]:
        """Those of these SHA-256 digests that are dead letters'."""
        return frozenset(await self._column("letters_of", list(digests)))

    async def _rows(self, query: str, kind: type[_R], *arguments: object) -> tuple[_R, ...]:
        async with answering(), self._connection.transaction(readonly=True):
            cursor = self._connection.cursor(_Q[query], *arguments, prefetch=_PREFETCH)
            return tuple([kind(**row) async for row in cursor])

    async def _column(self, query: str, *arguments: object) -> list[Any]:
        async with answering():
            return [row[0] for row in await self._connection.fetch(_Q[query], *arguments)]


__all__ = [
    "ActiveRow",
    "AuditReader",
    "BatchRow",
    "CreditRow",
    "EffectRow",
    "EventRow",
    "GoldRow",
    "GroupRow",
    "History",
    "LabelRow",
    "LetterRow",
    "MemoryRow",
    "QuestionRow",
    "RolloutRow",
    "RunRow",
    "VersionRow",
    "WriteRow",
]
