"""The database and the topics, made ready for work: idempotent, before any worker starts."""

import asyncpg

from consumers.runner.kafka_log import KafkaLog
from mia_events import topics
from ops.connect import Connections
from ops.embedded.external import check_postgres
from ops.errors import Refused
from storage.postgres.ledger import PostgresLedger
from storage.postgres.migrate import MigrationError, migrate
from storage.postgres.roles import ROLES, ensure_roles

__all__ = ["prepare_database", "prepare_topics"]

_LOCK = 0x6D6962  # one preparation at a time; another number than the migrations'


async def prepare_database(connections: Connections) -> list[str]:
    """Make the database, its roles with their passwords, and the schema; the migrations applied.

    Raises:
        Refused: Postgres is older than 16, pgvector older than 0.8.4, or the schema is not ours.
    """
    await check_postgres(connections.admin_dsn)
    await _create_database(connections)
    connection = await asyncpg.connect(connections.database_dsn)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
        await ensure_roles(connection, {role: connections.password(role) for role in ROLES})
        return await migrate(connection)
    except MigrationError as error:
        raise Refused(str(error), "") from error
    except asyncpg.InsufficientPrivilegeError as error:
        raise Refused(
            f"the database's user may not set it up: {error}",
            "Name a user in postgres.dsn that may create roles and owns the database.",
        ) from error
    finally:
        await connection.close()


async def prepare_topics(
    connections: Connections, *, partitions: int, replication: int, prefix: str = ""
) -> list[str]:
    """Make the topics that are missing and note in the ledger when; the names made."""
    log = KafkaLog(connections.kafka, prefix=prefix)
    try:
        made = await log.ensure_topics(topics.ALL, partitions=partitions, replication=replication)
    finally:
        await log.close()
    if made:
        await _note_topics(connections, made)
    return made


async def _note_topics(connections: Connections, made: list[str]) -> None:
    # What was sent to topics of these names before is gone: the ledger has to know.
    ledger = await PostgresLedger.open(connections.dsn("mia_worker"), size=1)
    try:
        await ledger.topics_created(made)
    finally:
        await ledger.close()


async def _create_database(connections: Connections) -> None:
    connection = await asyncpg.connect(connections.admin_dsn)
    try:
        name = connections.database
        if await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            return
        statement = await connection.fetchval("SELECT format('CREATE DATABASE %I', $1::text)", name)
        await connection.execute(statement)
    finally:
        await connection.close()
