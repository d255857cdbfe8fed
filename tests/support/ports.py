"""The storage ports of one implementation, with what the contract suite needs around them."""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from typing import Protocol
from uuid import UUID

import asyncpg

from mia_events.steps import Manifest
from storage.inmemory.labels import InMemoryLabels
from storage.inmemory.ledger import InMemoryLedger
from storage.inmemory.memory import InMemoryMemories
from storage.inmemory.policies import InMemoryPolicies
from storage.inmemory.runs import InMemoryRuns
from storage.inmemory.state import Database
from storage.ports import LabelStore, Ledger, MemoryStore, Policies
from storage.postgres.labels import PostgresLabels
from storage.postgres.ledger import PostgresLedger
from storage.postgres.memory import PostgresMemory
from storage.postgres.migrate import migrate
from storage.postgres.policies import PostgresPolicies
from storage.postgres.roles import ROLES, ensure_roles
from storage.postgres.runs import PostgresRuns

__all__ = ["Logged", "Ports", "Runs", "in_memory_ports", "make_postgres_ports", "prepare_postgres"]


@dataclass(frozen=True)
class Logged:
    """An event as it lies in the ledger."""

    seq: int
    id: UUID
    type: str
    at: datetime
    cause: UUID | None
    claim: int | None
    attempt: int | None
    hash: bytes
    body: bytes
    body_sha: bytes


class Runs(Protocol):
    """What both implementations can do with whole runs."""

    async def create(self, name: str, manifest: Manifest, *, scope: str | None = None) -> int: ...
    async def pause(self, name: str) -> str: ...
    async def resume(self, name: str) -> str: ...
    async def close(self, name: str) -> str: ...
    async def set_policy(self, name: str, policy: str, *, reason: str = "") -> str: ...


@dataclass(frozen=True)
class Ports:
    """One implementation of every port over one store."""

    name: str
    ledger: Ledger
    memory: MemoryStore
    labels: LabelStore
    policies: Policies
    runs: Runs
    events: Callable[[UUID], Awaitable[list[Logged]]]

    async def new_run(self, manifest: Manifest, *, scope: str | None = None) -> int:
        """A fresh run's number."""
        return await self.runs.create(f"run-{uuid.uuid4().hex}", manifest, scope=scope)


@asynccontextmanager
async def in_memory_ports() -> AsyncIterator[Ports]:
    """The twins."""
    db = Database()

    async def events(stream: UUID) -> list[Logged]:
        return [
            Logged(
                seq=row.seq,
                id=row.id,
                type=row.type,
                at=row.at,
                cause=row.cause,
                claim=row.claim,
                attempt=row.attempt,
                hash=row.hash,
                body=row.body,
                body_sha=sha256(row.body).digest(),
            )
            for row in db.events.get(stream, [])
        ]

    yield Ports(
        name="inmemory",
        ledger=InMemoryLedger(db),
        memory=InMemoryMemories(db),
        labels=InMemoryLabels(db),
        policies=InMemoryPolicies(db),
        runs=InMemoryRuns(db),
        events=events,
    )


async def prepare_postgres(dsn: str) -> None:
    """Make the roles and apply every migration, as the superuser."""
    connection = await asyncpg.connect(dsn)
    try:
        await ensure_roles(connection, dict.fromkeys(ROLES, uuid.uuid4().hex))
        await migrate(connection)
    finally:
        await connection.close()


@asynccontextmanager
async def make_postgres_ports(dsn: str) -> AsyncIterator[Ports]:
    """The adapters over a prepared database, as its superuser; at the end no run moves any more."""
    connection = await asyncpg.connect(dsn)
    ledger = await PostgresLedger.open(dsn, sealed=True, size=4)

    async def events(stream: UUID) -> list[Logged]:
        rows = await connection.fetch(
            "SELECT seq, id, type, at, cause, claim, attempt, hash, body, body_sha FROM event "
            "WHERE stream = $1 ORDER BY seq",
            stream,
        )
        return [Logged(**row) for row in rows]

    try:
        yield Ports(
            name="postgres",
            ledger=ledger,
            memory=PostgresMemory(ledger.pool),
            labels=PostgresLabels(ledger.pool),
            policies=PostgresPolicies(ledger.pool),
            runs=PostgresRuns(ledger.pool),
            events=events,
        )
    finally:
        await connection.execute("UPDATE run SET state = 'ended' WHERE run_no > 0")
        await connection.execute("DELETE FROM outbox")
        await ledger.close()
        await connection.close()
