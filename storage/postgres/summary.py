"""The figures of a run, counted by the database. Reads only, as the auditor: some are sealed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from mia_events.ordering import by_time
from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from mia_events.steps import RunView

__all__ = ["Counts", "PostgresSummary"]

_Q = queries("summary")
_BY_RUN = ("ends", "grades", "events", "tools", "tokens", "times", "failures")


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """What the database counted: rows by the name of the query. `answers` are (answer, gold)."""

    run: str
    run_id: UUID
    mode: str
    ends: list[dict[str, Any]]
    grades: list[dict[str, Any]]
    events: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    tokens: list[dict[str, Any]]
    times: list[dict[str, Any]]
    failures: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    latency: dict[str, Any]
    uses: dict[str, Any]
    answers: list[tuple[str | None, str]]
    learning: list[tuple[datetime, bytes]] = []


def _place(row: Any) -> tuple[tuple[int, UUID], datetime, int]:
    """A batch ends in the moment in which its learner takes it, and before that."""
    return (row["kind"], row["stream"]), row["at"], row["seq"]


class PostgresSummary:
    """Counts a run. Needs the auditor's role."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def counts(self, run: RunView, *, learning: Sequence[str] = ()) -> Counts:
        """Everything a report is made of, as of one moment, with the payloads of some events of a
        run that trains.
        """
        number = run.run_no
        async with (
            answering(),
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            found = {
                name: [dict(row) for row in await connection.fetch(_Q[name], number)]
                for name in _BY_RUN
            }
            memory = await connection.fetch(_Q["memory"], run.scope)
            (latency,) = await connection.fetch(_Q["latency"], number)
            (uses,) = await connection.fetch(_Q["uses"], number)
            answers = await connection.fetch(_Q["answers"], number)
            learned = await connection.fetch(_Q["learning"], number, list(learning))
        return Counts(
            run=run.name,
            run_id=run.id,
            mode=run.manifest.mode,
            memory=[dict(row) for row in memory],
            latency=dict(latency),
            uses=dict(uses),
            answers=[(row["answer"], row["gold"]) for row in answers],
            learning=[(row["at"], row["body"]) for row in by_time(learned, _place)],
            **found,
        )
