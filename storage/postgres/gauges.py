"""What is going on now, in numbers. Reads only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    import asyncpg

__all__ = ["Gauges", "PostgresGauges", "QuestionCount", "TopicCount"]

_Q = queries("gauges")


class QuestionCount(msgspec.Struct, frozen=True):
    """How many questions of a run have a status: waiting, open, answered, failed."""

    run: str
    status: str
    count: int


class TopicCount(msgspec.Struct, frozen=True):
    """A topic's commands that nobody holds, those being handled, and the oldest one's age (s)."""

    topic: str
    pending: int
    claimed: int
    oldest: float


class Gauges(msgspec.Struct, frozen=True, kw_only=True):
    """One look at everything; pairs are of a name and a number."""

    questions: tuple[QuestionCount, ...]
    in_flight: tuple[tuple[str, int], ...]
    commands: tuple[TopicCount, ...]
    events: tuple[tuple[str, int], ...]
    unacknowledged: int
    dead_letters: tuple[tuple[str, int], ...]


class PostgresGauges:
    """Counts what goes on."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def read(self) -> Gauges:
        """One look."""
        async with answering(), self._pool.acquire() as connection:
            questions = await connection.fetch(_Q["questions"])
            in_flight = await connection.fetch(_Q["in_flight"])
            commands = await connection.fetch(_Q["commands"])
            events = await connection.fetch(_Q["events"])
            unacknowledged: int = await connection.fetchval(_Q["unacknowledged"])
            dead_letters = await connection.fetch(_Q["dead_letters"])
        return Gauges(
            questions=tuple(QuestionCount(*row) for row in questions),
            in_flight=tuple((row[0], row[1]) for row in in_flight),
            commands=tuple(TopicCount(*row) for row in commands),
            events=tuple((row[0], row[1]) for row in events),
            unacknowledged=unacknowledged,
            dead_letters=tuple((row[0], row[1]) for row in dead_letters),
        )

    async def alive(self) -> None:
        """Return if the database answers. Raises `Unavailable`."""
        async with answering():
            await self._pool.fetchval(_Q["alive"])
