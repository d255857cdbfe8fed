"""`mia archive|purge|erase`: how a finished run, or one payload, leaves the database."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import asyncpg

from ops.connect import connections
from ops.console import console
from ops.errors import Refused
from ops.settings import load_settings
from storage.postgres import archive as leaving

__all__ = ["archive", "erase", "purge"]

_T = TypeVar("_T")


def archive(run: str, folder: Path) -> None:
    """Write a finished run to files with their checksums.

    Args:
        run: The run's name.
        folder: Where to; it holds labels, so it is closed to other users.
    """
    manifest = _as_owner(lambda connection: leaving.archive(connection, run, folder))
    rows = sum(table.rows for table in manifest.tables.values())
    console().print(
        f"{rows} rows of run {run} are in {folder}; `mia purge {run} {folder}` removes them"
    )


def purge(run: str, folder: Path) -> None:
    """Remove a finished run from the database, once its archive proves whole. Memories stay.

    Args:
        run: The run's name.
        folder: Its archive.
    """
    _as_owner(lambda connection: leaving.purge(connection, run, folder))
    console().print(f"run {run} is purged; {folder} is all that is left of it")


def erase(event: str) -> None:
    """Erase the payload of one event for good; its chain still verifies.

    Args:
        event: The event's id.
    """
    if not _as_owner(lambda connection: leaving.erase(connection, event)):
        raise Refused(f"there is no event {event}", "`mia audit --json` names events by id.")
    console().print(f"the payload of event {event} is erased")


def _as_owner(work: Callable[[asyncpg.Connection], Awaitable[_T]]) -> _T:
    async def run() -> _T:
        where = connections(load_settings())
        connection = await asyncpg.connect(where.database_dsn)
        try:
            return await work(connection)
        finally:
            await connection.close()

    try:
        return asyncio.run(run())
    except leaving.NotPossible as error:
        raise Refused(str(error), "") from error
    except (OSError, asyncpg.PostgresError) as error:
        raise Refused(f"the database refused: {error}", "See `mia status`.") from error
