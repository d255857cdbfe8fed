"""Who brings servers level holds a lock of his connection's: it ends with that, however it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import asyncpg
import pytest

from storage.postgres.policies import PostgresPolicies
from storage.postgres.pool import Unavailable, open_pool

_KILL_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@pytest.fixture
async def policies(database: str) -> AsyncIterator[PostgresPolicies]:
    """Give registries of a pool with two connections, which were both used before."""
    pool = await open_pool(database, size=2)
    try:
        yield PostgresPolicies(pool)
    finally:
        await pool.close()


async def test_a_lost_connection_lets_others_level_servers(
    database: str, policies: PostgresPolicies
) -> None:
    """More often than there are connections: none is kept, and none keeps the lock. Who held it
    stops what he does, for another may have begun.
    """
    for _ in range(3):
        await _until_held(policies)
        with pytest.raises(Unavailable, match="holds the lock"):
            await _level_for_long(database, policies)
    await _until_held(policies)
    async with policies.levelling() as mine, policies.levelling() as second:
        assert (True, False) == (mine, second)


async def _until_held(policies: PostgresPolicies) -> None:
    """Every connection of the pool has been tried: one that was killed says so when it is used."""
    async with asyncio.timeout(30):
        while True:
            with suppress(Unavailable):
                async with policies.levelling() as mine, policies.levelling():
                    if mine:
                        return


async def _level_for_long(database: str, policies: PostgresPolicies) -> None:
    async with policies.levelling() as mine:
        assert mine
        await _kill_others(database)
        await asyncio.sleep(60)


async def _kill_others(database: str) -> None:
    connection = await asyncpg.connect(database)
    try:
        await connection.execute(_KILL_OTHERS)
    finally:
        await connection.close()
