"""The run that is there without being asked for: questions that name none go to it."""

from typing import Final

from ops.manifest import manifest_of
from ops.settings import Settings
from storage.postgres.pool import open_pool
from storage.postgres.runs import PostgresRuns, RunExists

__all__ = ["DEFAULT_RUN", "make_default_run"]

DEFAULT_RUN: Final = "default"


async def make_default_run(settings: Settings, dsn: str) -> bool:
    """Make the live run `default` if it is not there; tell whether it was made."""
    pool = await open_pool(dsn, size=1)
    try:
        await PostgresRuns(pool).create(DEFAULT_RUN, manifest_of(settings))
    except RunExists:
        return False
    finally:
        await pool.close()
    return True
