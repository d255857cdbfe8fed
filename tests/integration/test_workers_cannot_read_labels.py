"""Planner, executor, router and memory cannot leak what their database role cannot read."""

import uuid

import asyncpg
import pytest

from storage.postgres.migrate import migrate
from storage.postgres.roles import ROLES, ensure_roles, role_dsn

SEALED = ("sealed.label", "sealed.effect", "sealed.dead_letter")


@pytest.fixture
async def dsns(database: str) -> dict[str, str]:
    """Give the DSN of every role over a migrated database."""
    passwords = {role: uuid.uuid4().hex for role in ROLES}
    connection = await asyncpg.connect(database)
    try:
        await ensure_roles(connection, passwords)
        await migrate(connection)
    finally:
        await connection.close()
    return {role: role_dsn(database, role, passwords[role]) for role in ROLES}


async def _refused(dsn: str, statement: str) -> bool:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.fetch(statement)
    except asyncpg.InsufficientPrivilegeError:
        return True
    finally:
        await connection.close()
    return False


@pytest.mark.parametrize("table", SEALED)
async def test_the_workers_role_reads_nothing_sealed(dsns: dict[str, str], table: str) -> None:
    """Every sealed table refuses the role of planner, executor and memory."""
    assert await _refused(dsns["mia_worker"], f"SELECT * FROM {table}")


@pytest.mark.parametrize("table", ["sealed.label", "sealed.dead_letter"])
async def test_whoever_takes_labels_in_cannot_read_them_back(
    dsns: dict[str, str], table: str
) -> None:
    """The admitting role writes labels and reads none."""
    assert await _refused(dsns["mia_admit"], f"SELECT * FROM {table}")


async def test_the_judge_reads_labels(dsns: dict[str, str]) -> None:
    """The judge's role reads labels: the refusals above are not refusals of everyone."""
    assert not await _refused(dsns["mia_judge"], "SELECT * FROM sealed.label")


@pytest.mark.parametrize("role", ["mia_worker", "mia_judge", "mia_admit"])
@pytest.mark.parametrize(
    "statement", ["DELETE FROM event", "UPDATE event SET type = 'x'", "DELETE FROM effect"]
)
async def test_the_ledger_is_append_only(dsns: dict[str, str], role: str, statement: str) -> None:
    """No role that works may change or remove what is ledgered."""
    assert await _refused(dsns[role], statement)


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_that_works_may_make_tables(dsns: dict[str, str], role: str) -> None:
    """Roles have no DDL at run time."""
    assert await _refused(dsns[role], "CREATE TABLE intruder (x int)")
