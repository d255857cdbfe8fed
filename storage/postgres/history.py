"""One question, or one event, with everything that led to it. Reads only."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec

from mia_events.lifecycle import Kind
from storage.postgres.pool import answering
from storage.postgres.sql import queries
from storage.postgres.watch import SeenEvent

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import asyncpg

__all__ = ["Effect", "Memory", "PostgresHistory", "QuestionState", "StoredEvent", "place_after"]

_Q = queries("history")


class QuestionState(msgspec.Struct, frozen=True, kw_only=True):
    """A question as it stands. `answered` is the payload of its answer, with the lineage."""

    id: UUID
    run_no: int
    run: str
    run_state: str
    scope: str
    pos: int
    batch: int | None
    source: str
    row: str
    pass_no: int
    status: str
    answer: str | None
    reason: str | None
    grade: str | None
    official: int | None
    g: int
    closed: bool
    urgent: bool
    accepted_at: datetime
    answered_at: datetime | None
    ended_at: datetime | None
    text: str | None
    answered: bytes | None


class StoredEvent(SeenEvent, frozen=True, kw_only=True):
    """An event with its causes. `slot` is 0 for the question, number + 1 for a rollout."""

    slot: int
    topic: str | None
    cause: UUID | None
    claim: int | None
    attempt: int | None


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """A request of an event; `result` is None for a sealed one and for one without a reply yet."""

    event_id: UUID
    ordinal: int
    kind: str
    policy: str | None
    at: datetime
    result: bytes | None
    sealed: bool


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """A memory in its newest version."""

    id: UUID
    version: int
    outcome: str
    question: str
    text: str
    from_gen: int
    at: datetime


def place_after(place: Sequence[int], events: Iterable[StoredEvent]) -> tuple[int, ...]:
    """Return the place behind `events`: for the question and each rollout, the last seq seen.

    Every stream numbers its events without a gap, so what comes after a place is exact, however
    late a commit of another stream becomes visible.
    """
    seen = dict(enumerate(place))
    for event in events:
        seen[event.slot] = max(seen.get(event.slot, 0), event.seq)
    return tuple(seen.get(slot, 0) for slot in range(max(seen, default=-1) + 1))


class PostgresHistory:
    """Reads the story of questions. `sealed`: the role may see that sealed effects are there."""

    def __init__(self, pool: asyncpg.Pool, *, sealed: bool = False) -> None:
        self._pool, self._sealed = pool, sealed

    async def question(self, question: UUID) -> QuestionState | None:
        """A question as it stands; None when it was not accepted (yet)."""
        async with answering():
            row = await self._pool.fetchrow(_Q["question"], question)
        return QuestionState(**row) if row is not None else None

    async def steps(
        self, run_no: int, question: UUID, place: Sequence[int] = ()
    ) -> list[StoredEvent]:
        """The events of a question and its rollouts after a place (see `place_after`)."""
        async with answering():
            rows = await self._pool.fetch(_Q["steps"], run_no, question, list(place))
        return [_event(row) for row in rows]

    async def labels(self, run_no: int, question: UUID) -> list[StoredEvent]:
        """The facts that labels were sealed."""
        async with answering():
            rows = await self._pool.fetch(_Q["labels"], run_no, question)
        return [_event(row) for row in rows]

    async def event(self, event: UUID) -> tuple[int, str, StoredEvent] | None:
        """An event with its run's number and name; None when there is none."""
        async with answering():
            row = await self._pool.fetchrow(_Q["event"], event)
        return (row["run_no"], row["run"], _event(row)) if row is not None else None

    async def effects(self, run_no: int, events: Sequence[UUID]) -> list[Effect]:
        """What events asked for, by event and ordinal."""
        names = ("effects", "sealed_effects") if self._sealed else ("effects",)
        async with answering():
            found = [
                row for name in names for row in await self._pool.fetch(_Q[name], run_no, events)
            ]
        effects = [Effect(**row) for row in found]
        return sorted(effects, key=lambda effect: (effect.event_id, effect.ordinal))

    async def memories(self, memories: Sequence[UUID]) -> list[Memory]:
        """Memories by id, in the order asked for; those that are no more are left out."""
        async with answering():
            rows = await self._pool.fetch(_Q["memories"], list(memories))
        found = {row["id"]: Memory(**row) for row in rows}
        return [found[id_] for id_ in memories if id_ in found]


def _event(row: Any) -> StoredEvent:
    fields = {name: row[name] for name in StoredEvent.__struct_fields__}
    return StoredEvent(**{**fields, "kind": Kind(row["kind"])})
