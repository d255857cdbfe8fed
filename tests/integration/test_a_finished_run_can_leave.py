"""A finished run is archived and purged, a payload erased, and chains still verify."""

import uuid
from hashlib import sha256
from pathlib import Path

import asyncpg
import pytest

from mia_events.chain import GENESIS, chain_hash
from mia_events.steps import Manifest
from storage.postgres import archive as leaving
from storage.postgres.ledger import PostgresLedger
from storage.postgres.migrate import migrate
from storage.postgres.roles import ROLES, ensure_roles
from storage.postgres.runs import PostgresRuns
from tests.contract.workbench import new_question


@pytest.fixture
async def owner(database: str) -> asyncpg.Connection:
    """Give the owner's connection to a migrated database."""
    connection = await asyncpg.connect(database)
    await ensure_roles(connection, dict.fromkeys(ROLES, uuid.uuid4().hex))
    await migrate(connection)
    return connection


async def _cancelled_run(dsn: str, name: str) -> None:
    """A run with questions that has ended (by being cancelled)."""
    ledger = await PostgresLedger.open(dsn)
    runs = PostgresRuns(ledger.pool)
    number = await runs.create(name, Manifest(mode="batch", batch_size=2))
    run = await ledger.run(number)
    await ledger.accept(number, [new_question(run.id, str(row)) for row in range(3)])
    await runs.cancel(name)
    await ledger.close()


async def test_a_run_that_goes_on_cannot_leave(
    database: str, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    """Archiving names the state that forbids it."""
    ledger = await PostgresLedger.open(database)
    await PostgresRuns(ledger.pool).create("going", Manifest())
    await ledger.close()
    with pytest.raises(leaving.NotPossible, match="is running"):
        await leaving.archive(owner, "going", tmp_path)
    await owner.close()


async def test_an_archived_run_is_purged_and_its_archive_verifies(
    database: str, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    """Nothing of the run is left but its row; every event is in the archive."""
    await _cancelled_run(database, "gone")
    events = await owner.fetchval("SELECT count(*) FROM event WHERE run_no > 0")
    manifest = await leaving.archive(owner, "gone", tmp_path)
    await leaving.purge(owner, "gone", tmp_path)
    assert events == manifest.tables["event"].rows > 0
    assert manifest == leaving.verify(tmp_path)
    assert await owner.fetchval("SELECT count(*) FROM event WHERE run_no > 0") == 0
    assert await owner.fetchval("SELECT count(*) FROM question") == 0
    assert await owner.fetchval("SELECT state FROM run WHERE name = 'gone'") == "purged"
    await owner.close()


async def test_a_damaged_archive_keeps_its_run(
    database: str, owner: asyncpg.Connection, tmp_path: Path
) -> None:
    """A changed byte in a file forbids the purge, and names the file."""
    await _cancelled_run(database, "kept")
    await leaving.archive(owner, "kept", tmp_path)
    file = tmp_path / "event.jsonl.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00\x00")
    with pytest.raises(leaving.NotPossible, match=r"event\.jsonl\.gz"):
        await leaving.purge(owner, "kept", tmp_path)
    assert await owner.fetchval("SELECT count(*) FROM question") > 0
    await owner.close()


async def test_a_chain_verifies_after_a_payload_is_erased(
    database: str, owner: asyncpg.Connection
) -> None:
    """The erased bytes are gone; the hash over their digest still matches."""
    await _cancelled_run(database, "erased")
    row = await owner.fetchrow("SELECT * FROM event WHERE type = 'question.asked' LIMIT 1")
    assert row is not None
    await owner.execute("DELETE FROM active")
    assert await leaving.erase(owner, str(row["id"]))
    after = await owner.fetchrow("SELECT * FROM event WHERE id = $1", row["id"])
    assert after is not None
    assert after["body"] is None
    assert sha256(row["body"]).digest() == after["body_sha"]
    assert after["hash"] == chain_hash(
        GENESIS,
        stream=after["stream"],
        seq=after["seq"],
        event_id=after["id"],
        cause=after["cause"],
        at=after["at"],
        body_sha256=after["body_sha"],
        type_=after["type"],
    )
    await owner.close()
