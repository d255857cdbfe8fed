# ruff: noqa: S608 - the names and conditions are this module's own literals
"""A finished run leaves: archived to files that prove themselves, purged, or one payload erased.

Needs the owner of the tables: the roles that work may neither change nor delete what is ledgered.
"""

from __future__ import annotations

import gzip
from hashlib import sha256
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from pathlib import Path

    from storage.postgres.pool import Connection

#: What belongs to a run alone, with the condition that selects it. Memories outlive their run.
TABLES: Final = {
    "run": "run_no = $1",
    "event": "run_no = $1",
    "effect": "run_no = $1",
    "sealed.effect": "run_no = $1",
    "question": "run_no = $1",
    "rollout": "run_no = $1",
    "batch": "run_no = $1",
    "generation": "run_no = $1",
    "policy": "run_no = $1",
    "train_group": "run_no = $1",
    "label": "run_no = $1",
    "sealed.label": "question IN (SELECT id FROM question WHERE run_no = $1)",
    "dead_letter": "run_no = $1",
    "sealed.dead_letter": "id IN (SELECT id FROM dead_letter WHERE run_no = $1)",
}
_MANIFEST: Final = "manifest.json"


class NotPossible(ValueError):
    """The run is not in a state for it, or its archive does not prove itself."""


class ArchivedTable(msgspec.Struct, frozen=True, kw_only=True):
    """One table's file: rows, and the SHA-256 of the compressed bytes."""

    file: str
    rows: int
    sha256: str


class ArchiveManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What an archive holds."""

    run_no: int
    name: str
    tables: dict[str, ArchivedTable]


async def archive(connection: Connection, name: str, folder: Path) -> ArchiveManifest:
    """Write an ended run's rows to `folder`, one gzipped file of JSON lines per table.

    Raises `NotPossible` for a run that has not ended.
    """
    run_no = await _ended(connection, name)
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)  # noqa: ASYNC240 - a command's own loop
    tables = {}
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        for table, condition in TABLES.items():
            tables[table] = await _write(connection, table, condition, run_no, folder)
    manifest = ArchiveManifest(run_no=run_no, name=name, tables=tables)
    (folder / _MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


async def _write(
    connection: Connection, table: str, condition: str, run_no: int, folder: Path
) -> ArchivedTable:
    file, rows = f"{table}.jsonl.gz", 0
    query = f"SELECT row_to_json(t)::text FROM {table} AS t WHERE {condition}"
    with gzip.GzipFile(folder / file, "wb", mtime=0) as out:
        async for record in connection.cursor(query, run_no, prefetch=2000):
            out.write(record[0].encode() + b"\n")
            rows += 1
    digest = sha256((folder / file).read_bytes()).hexdigest()
    return ArchivedTable(file=file, rows=rows, sha256=digest)


def verify(folder: Path) -> ArchiveManifest:
    """Check every file against the manifest. Raises `NotPossible` naming the first that differs."""
    try:
        manifest = msgspec.json.decode((folder / _MANIFEST).read_bytes(), type=ArchiveManifest)
    except (OSError, msgspec.DecodeError) as error:
        message = f"{folder} holds no archive: {error}"
        raise NotPossible(message) from error
    for table, kept in manifest.tables.items():
        path = folder / kept.file
        if not path.is_file() or sha256(path.read_bytes()).hexdigest() != kept.sha256:
            message = f"{path} is not what was archived of {table}: archive the run again"
            raise NotPossible(message)
    return manifest


async def purge(connection: Connection, name: str, folder: Path) -> None:
    """Remove an ended run whose archive in `folder` verifies; its memories stay.

    The run's own row stays too, as 'purged', so that its name and number are never used again.
    """
    manifest = verify(folder)
    run_no = await _ended(connection, name)
    if (manifest.name, manifest.run_no) != (name, run_no):
        message = f"{folder} is the archive of run {manifest.name!r}, not of {name!r}"
        raise NotPossible(message)
    async with connection.transaction():
        for table in (
            "sealed.label",
            "sealed.dead_letter",
            "sealed.effect",
            "label",
            "dead_letter",
        ):
            await connection.execute(
                f"DELETE FROM {table} WHERE {TABLES[table]}",
                run_no,
            )
        for table in ("rollout", "question", "batch", "generation", "policy", "train_group"):
            await connection.execute(f"DELETE FROM {table} WHERE run_no = $1", run_no)
        for table in ("event", "effect"):
            await connection.execute(f"ALTER TABLE {table} DETACH PARTITION {table}_{run_no:d}")
            await connection.execute(f"DROP TABLE {table}_{run_no:d}")
        await connection.execute("UPDATE run SET state = 'purged' WHERE run_no = $1", run_no)


async def erase(connection: Connection, event: str) -> bool:
    """Erase one event's payload for good; its digest stays, so that its chain still verifies.

    False when there is no such event. Raises `NotPossible` while its stream is unfinished.
    """
    busy = await connection.fetchval(
        "SELECT 1 FROM event AS e JOIN active AS a ON a.stream = e.stream WHERE e.id = $1::uuid",
        event,
    )
    if busy:
        message = f"event {event} belongs to a stream that is not over: cancel or await it first"
        raise NotPossible(message)
    status = await connection.execute("UPDATE event SET body = NULL WHERE id = $1::uuid", event)
    return status != "UPDATE 0"


async def _ended(connection: Connection, name: str) -> int:
    row = await connection.fetchrow("SELECT run_no, state FROM run WHERE name = $1", name)
    if row is None:
        message = f"no run {name!r}: `mia run list` shows what there is"
        raise NotPossible(message)
    if row["state"] != "ended":
        message = f"run {name!r} is {row['state']}: only a run that has ended can leave"
        raise NotPossible(message)
    number: int = row["run_no"]
    return number


__all__ = ["ArchiveManifest", "ArchivedTable", "NotPossible", "archive", "erase", "purge", "verify"]
