"""A run as it was recorded, whole, for a replay (role `mia_audit`: sealed effects are read)."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg
import msgspec

from mia_events.lifecycle import Kind
from mia_events.steps import Manifest, QuestionView, RunView
from storage.postgres.ledger import question_view
from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    pass

_Q: Final = queries("replay")


class RecordedEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An event as it was committed; `body` is None when its payload was erased."""

    stream: UUID
    seq: int
    id: UUID
    kind: Kind
    type: str
    topic: str | None
    at: datetime
    question: UUID | None
    claim: int | None
    body: bytes | None


class RecordedEffect(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A request by its hash, and its reply; `result` is None when it was erased."""

    kind: str
    request_sha: bytes
    result: bytes | None
    sealed: bool


class Recording(msgspec.Struct, frozen=True, kw_only=True):
    """Events by stream in order, effects by command and ordinal, each question's batch, and the
    questions whose own payload was not erased.
    """

    run: RunView
    streams: dict[UUID, tuple[RecordedEvent, ...]]
    effects: dict[UUID, dict[int, RecordedEffect]]
    questions: dict[UUID, QuestionView]
    batches: dict[UUID, int | None]
    buried: frozenset[UUID]


async def read_recording(dsn: str, run: str) -> Recording:
    """Read a run in one snapshot. Raises `LookupError` for no such run, and `Unavailable`."""
    async with answering():
        connection = await asyncpg.connect(dsn)
        try:
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await _read(connection, run)
        finally:
            await connection.close()


async def _read(connection: asyncpg.Connection[Any], run: str) -> Recording:
    found = await connection.fetchrow(_Q["run"], run)
    if found is None:
        message = f"no run {run!r}: `mia run list` shows what there is"
        raise LookupError(message)
    number = found["run_no"]
    rows = await connection.fetch(_Q["questions"], number)
    return Recording(
        run=RunView(
            run_no=number,
            id=found["id"],
            name=found["name"],
            scope=found["scope"],
            manifest=msgspec.json.decode(found["manifest"], type=Manifest),
        ),
        streams=_streams(await connection.fetch(_Q["events"], number)),
        effects=_effects(await connection.fetch(_Q["effects"], number)),
        questions={row["id"]: question_view(row, row["id"]) for row in rows if row["asked"]},
        batches={row["id"]: row["batch"] for row in rows},
        buried=frozenset(r["event_id"] for r in await connection.fetch(_Q["buried"], number)),
    )


def _streams(rows: list[Any]) -> dict[UUID, tuple[RecordedEvent, ...]]:
    streams: dict[UUID, list[RecordedEvent]] = {}
    for row in rows:
        event = RecordedEvent(
            stream=row["stream"],
            seq=row["seq"],
            id=row["id"],
            kind=Kind(row["kind"]),
            type=row["type"],
            topic=row["topic"],
            at=row["at"],
            question=row["correlation"],
            claim=row["claim"],
            body=row["body"],
        )
        streams.setdefault(event.stream, []).append(event)
    return {stream: tuple(events) for stream, events in streams.items()}


def _effects(rows: list[Any]) -> dict[UUID, dict[int, RecordedEffect]]:
    effects: dict[UUID, dict[int, RecordedEffect]] = {}
    for row in rows:
        effects.setdefault(row["event_id"], {})[row["ordinal"]] = RecordedEffect(
            kind=row["kind"],
            request_sha=row["request_sha"],
            result=row["result"],
            sealed=row["sealed"],
        )
    return effects


__all__ = ["RecordedEffect", "RecordedEvent", "Recording", "read_recording"]
