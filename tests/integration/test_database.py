"""`mia up` readies database and topics, however often it is started."""

from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest

from ops.connect import Connections, connections_to
from ops.database import prepare_database, prepare_topics
from ops.embedded.stack import Endpoints
from ops.embedded.state import Home
from ops.settings import PostgresSettings, Settings
from storage.postgres.migrate import migrations
from tests.support.stack import StackThread


@pytest.fixture
async def connections(
    stack: StackThread, tmp_path: Path, topic_prefix: str
) -> AsyncIterator[Connections]:
    """Give connections to a database that is not there yet, dropped afterwards."""
    Home(tmp_path / "home").create()
    name = topic_prefix.rstrip(".")
    settings = Settings(home=str(tmp_path / "home"), postgres=PostgresSettings(database=name))
    yield connections_to(settings, Endpoints(stack.bootstrap_servers, stack.admin_dsn))
    admin = await asyncpg.connect(stack.admin_dsn)
    await admin.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await admin.close()


async def test_the_database_is_made_once(connections: Connections) -> None:
    """The first time applies every migration, the second none."""
    assert [migration.name for migration in migrations()] == await prepare_database(connections)
    assert [] == await prepare_database(connections)


async def test_roles_log_in_and_only_the_judge_reads_labels(connections: Connections) -> None:
    """Each role has a password of its own and what its work needs."""
    await prepare_database(connections)
    assert await _may_read_labels(connections, "mia_judge")
    assert not await _may_read_labels(connections, "mia_worker")
    assert not await _may_read_labels(connections, "mia_admit")


async def _may_read_labels(connections: Connections, role: str) -> bool:
    connection = await asyncpg.connect(connections.dsn(role))
    try:
        await connection.fetch("SELECT value FROM sealed.label")
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await connection.close()
    return True


async def test_topics_are_made_once_and_noted(connections: Connections, topic_prefix: str) -> None:
    """The ledger knows since when each topic can hold anything."""
    await prepare_database(connections)
    made = await prepare_topics(connections, partitions=2, replication=1, prefix=topic_prefix)
    assert "mia.question" in made
    assert [] == await prepare_topics(connections, partitions=2, replication=1, prefix=topic_prefix)
    connection = await asyncpg.connect(connections.database_dsn)
    noted = await connection.fetch("SELECT name FROM topic")
    await connection.close()
    assert set(made) == {row["name"] for row in noted}
