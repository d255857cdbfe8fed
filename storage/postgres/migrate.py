"""Numbered, checksummed migrations under an advisory lock.

`NNNN_name.pre.sql` is safe while the old code still runs; `NNNN_name.post.sql` needs the new code.
"""

from __future__ import annotations

from hashlib import sha256
from importlib import resources
from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    import asyncpg

_LOCK: Final = 0x6D6961


class Migration(msgspec.Struct, frozen=True):
    """One file: its number and name, its text and the text's SHA-256."""

    name: str
    text: str

    @property
    def sha256(self) -> str:
        """The checksum that is remembered when it is applied."""
        return sha256(self.text.encode()).hexdigest()


class MigrationError(RuntimeError):
    """The database and the migration files disagree."""


def migrations() -> list[Migration]:
    """All migrations, in order."""
    folder = resources.files("storage").joinpath("migrations")
    names = sorted(item.name for item in folder.iterdir() if item.name.endswith(".sql"))
    return [Migration(name, folder.joinpath(name).read_text("utf-8")) for name in names]


async def migrate(connection: asyncpg.Connection, *, stage: str | None = None) -> list[str]:
    """Apply what is missing (of `stage` 'pre' or 'post'; None: all); the names applied.

    Raises `MigrationError` when an applied file has changed since or one is unknown here.
    """
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        applied = await _applied(connection)
        known = migrations()
        _check(known, applied)
        todo = [m for m in known if m.name not in applied and _in_stage(m, stage)]
        for migration in todo:
            await _apply(connection, migration)
        return [migration.name for migration in todo]
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


def _in_stage(migration: Migration, stage: str | None) -> bool:
    return stage is None or migration.name.endswith(f".{stage}.sql")


async def _applied(connection: asyncpg.Connection) -> dict[str, str]:
    await connection.execute(
        "CREATE TABLE IF NOT EXISTS migration ("
        "name text PRIMARY KEY, sha256 text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
    )
    rows = await connection.fetch("SELECT name, sha256 FROM migration")
    return {row["name"]: row["sha256"] for row in rows}


def _check(known: list[Migration], applied: dict[str, str]) -> None:
    sums = {migration.name: migration.sha256 for migration in known}
    unknown = sorted(set(applied) - set(sums))
    if unknown:
        message = (
            f"the database has {unknown[-1]}, which this version does not: upgrade the program"
        )
        raise MigrationError(message)
    changed = sorted(name for name, digest in applied.items() if sums[name] != digest)
    if changed:
        message = (
            f"{changed[0]} was changed after it was applied: restore the file, "
            "or for a database you can lose run `mia reset`"
        )
        raise MigrationError(message)


async def _apply(connection: asyncpg.Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(migration.text)
        await connection.execute(
            "INSERT INTO migration (name, sha256) VALUES ($1, $2)", migration.name, migration.sha256
        )


__all__ = ["Migration", "MigrationError", "migrate", "migrations"]
