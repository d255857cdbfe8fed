"""Questions to the database that are repeated until it answers: it is killed now and then."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import asyncpg

from storage.postgres.pool import RETRYABLE

__all__ = ["Desk", "execute", "patiently", "until"]

_T = TypeVar("_T")
_AGAIN_S = 0.2


class Desk:
    """A reader of one database, a new connection per question."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn

    async def rows(self, query: str, *arguments: object) -> list[Any]:
        """Return a query's rows, once the database answers."""
        return await patiently(lambda: self._rows(query, arguments))

    async def row(self, query: str, *arguments: object) -> Any:  # noqa: ANN401 - a record
        """Return a query's first row, or None."""
        found = await self.rows(query, *arguments)
        return found[0] if found else None

    async def value(self, query: str, *arguments: object) -> Any:  # noqa: ANN401 - a column
        """Return the first column of the first row, or None."""
        found = await self.row(query, *arguments)
        return found[0] if found is not None else None

    async def _rows(self, query: str, arguments: tuple[object, ...]) -> list[Any]:
        connection = await asyncpg.connect(self._dsn, timeout=10, command_timeout=60)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close(timeout=5)


async def patiently(action: Callable[[], Awaitable[_T]], *, limit_s: float = 120.0) -> _T:
    """Do as `action` until it is not for the database's absence that it fails."""
    end = time.monotonic() + limit_s
    while True:
        try:
            return await action()
        except RETRYABLE:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(_AGAIN_S)


async def execute(dsn: str, statement: str) -> None:
    """Run one statement, once the database answers."""

    async def once() -> None:
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    await patiently(once)


async def until(
    what: str, ready: Callable[[], Awaitable[bool]], *, limit_s: float, every_s: float = 0.5
) -> float:
    """Wait until `ready`; the seconds it took. Raises `TimeoutError` that names `what`."""
    began = time.monotonic()
    while not await ready():
        if time.monotonic() - began > limit_s:
            raise TimeoutError(f"waited {limit_s:g} s in vain until {what}")
        await asyncio.sleep(every_s)
    return time.monotonic() - began
