"""Memories from outside: the event that brings them and the memories, in one transaction."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid5

from mia_events import ids
from mia_events.lifecycle import Kind
from mia_events.memories import imported_write
from schemas.envelope import encode_payload
from schemas.events import event_type
from storage.postgres.memory import write_memories
from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    import asyncpg

    from mia_events.steps import RunView
    from schemas.events import MemoryImported

_Q = queries("memory_import")
_GENESIS = bytes(32)


class NotNow(ValueError):
    """The run takes no memories from outside as it stands."""


async def import_part(pool: asyncpg.Pool, run: RunView, part: MemoryImported) -> bool:
    """Ledger one part of a file and write its memories; False when the ledger has it already.

    Raises `NotNow`: a run with batches that has accepted a question, or one that is over.
    """
    stream = uuid5(run.id, f"import\x1f{part.sha256}\x1f{part.part}")
    event = ids.event_id(stream, 1)
    async with answering(), pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(_Q["lock_run"], run.run_no, stream)
        assert row is not None
        if row["there"]:
            return False
        if row["state"] == "ended":
            message = f"run {run.name} is over: import into another"
            raise NotNow(message)
        batches = run.manifest.mode == "batch"
        if batches and row["accepted"]:
            message = (
                f"the memory of run {run.name} changes with its batches only: import before its "
                "first question"
            )
            raise NotNow(message)
        await connection.execute(
            _Q["append"],
            run.run_no,
            stream,
            Kind.FACT,
            _GENESIS,
            event,
            event_type(part),
            encode_payload(part).decode(),
            datetime.now(UTC),
        )
        generation = 0 if batches else None
        write = imported_write(part, event, generation=generation, cap=run.manifest.memory_cap)
        await write_memories(connection, write, run_no=run.run_no, cause=event)
    return True


__all__ = ["NotNow", "import_part"]
