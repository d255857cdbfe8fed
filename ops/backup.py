"""Backup and restore: everything that Postgres and the artifact folder hold, in one file.

Topics are not part of it. They move work and can be rebuilt: what was pending is sent again by the
sweeper of the stack that goes on from a backup.
"""

import asyncio
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import asyncpg
import msgspec

from ops.connect import Connections, connections_to
from ops.embedded.external import external_endpoints
from ops.embedded.postgres import binaries
from ops.embedded.stack import EmbeddedStack, Endpoints
from ops.embedded.state import Home
from ops.errors import Refused
from ops.manifest import code_version
from ops.settings import Settings
from storage.postgres.roles import ROLES, ensure_roles

__all__ = ["Contents", "backup", "restore"]

_CONTENTS: Final = "backup.json"
_DUMP: Final = "database.dump"
_ARTIFACTS: Final = "artifacts"
_FORMAT: Final = 1


class Contents(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup says of itself: its format, when and with which code it was made."""

    format: int
    made_at: datetime
    code_version: str


def backup(settings: Settings, connections: Connections, target: Path) -> Contents:
    """Write a backup of a running stack, as of one moment. The file is closed to other users.

    Raises:
        Refused: `target` exists, or `pg_dump` failed (the message has its words).
    """
    if target.exists():
        raise Refused(f"{target} exists already", "Name a file that does not.")
    contents = Contents(format=_FORMAT, made_at=datetime.now(UTC), code_version=code_version())
    with tempfile.TemporaryDirectory(prefix=".backup-", dir=target.absolute().parent) as folder:
        dump = Path(folder) / _DUMP
        _run("pg_dump", connections.database_dsn, "--format=custom", f"--file={dump}")
        about = Path(folder) / _CONTENTS
        about.write_bytes(msgspec.json.encode(contents))
        whole = Path(folder) / "whole"
        _pack(whole, {about: _CONTENTS, dump: _DUMP, _artifacts(settings): _ARTIFACTS})
        whole.rename(target)
    return contents


def restore(settings: Settings, source: Path) -> Contents:
    """Fill an empty stack from a backup; the stack must be down, `mia up` goes on from there.

    Raises:
        Refused: `source` is no backup, the stack is up, or its database is there already.
    """
    with _unpacked(source) as folder:
        contents = _read(folder, source)
        asyncio.run(_restore_database(settings, folder / _DUMP))
        artifacts = folder / _ARTIFACTS
        if artifacts.exists():
            shutil.copytree(artifacts, _artifacts(settings), dirs_exist_ok=True)
    return contents


async def _restore_database(settings: Settings, dump: Path) -> None:
    async with _postgres(settings) as connections:
        await _require_empty(connections)
        await _prepare(connections)
        dsn = connections.database_dsn
        try:
            await asyncio.to_thread(
                _run, "pg_restore", dsn, "--exit-on-error", "--single-transaction", str(dump)
            )
        except Refused:
            await _drop(settings, connections)
            raise


@asynccontextmanager
async def _postgres(settings: Settings) -> AsyncIterator[Connections]:
    """Postgres alone: no worker may write before everything is back."""
    external = external_endpoints(settings)
    if external.admin_dsn:
        yield connections_to(settings, Endpoints("none", external.admin_dsn))
        return
    alone = Endpoints(bootstrap_servers="none")
    async with EmbeddedStack(_home(settings).root, settings.embedded, external=alone) as stack:
        yield connections_to(settings, stack.endpoints)


async def _require_empty(connections: Connections) -> None:
    connection = await asyncpg.connect(connections.admin_dsn)
    try:
        query = "SELECT 1 FROM pg_database WHERE datname = $1"
        there = await connection.fetchval(query, connections.database)
        if there and connections.database_dsn == connections.admin_dsn:
            there = await connection.fetchval("SELECT to_regclass('public.run')")
    finally:
        await connection.close()
    if there:
        raise Refused(
            f"the database {connections.database!r} holds data already",
            "Restore into an empty stack: another MIA_HOME, or `mia reset` first.",
        )


async def _prepare(connections: Connections) -> None:
    """The database, and the roles that what is restored is granted to."""
    connection = await asyncpg.connect(connections.admin_dsn)
    try:
        await ensure_roles(connection, {role: connections.password(role) for role in ROLES})
        if connections.database_dsn != connections.admin_dsn:
            await _execute(connection, "CREATE DATABASE %I", connections.database)
    finally:
        await connection.close()


async def _drop(settings: Settings, connections: Connections) -> None:
    """Leave nothing of a restore that failed; an external database is not ours to drop."""
    if settings.postgres.mode == "external":
        return
    connection = await asyncpg.connect(connections.admin_dsn)
    try:
        await _execute(connection, "DROP DATABASE %I WITH (FORCE)", connections.database)
    finally:
        await connection.close()


async def _execute(connection: asyncpg.Connection, form: str, name: str) -> None:
    await connection.execute(await connection.fetchval(f"SELECT format('{form}', $1::text)", name))


def _run(program: str, dsn: str, *arguments: str) -> None:
    """Run one of Postgres' clients; its password travels in the environment, not in the command."""
    parts = urlsplit(dsn)
    password = unquote(parts.password or "")
    user, host = parts.username or "", parts.netloc.rpartition("@")[2]
    address = parts._replace(netloc=f"{user}@{host}").geturl()
    done = subprocess.run(
        [str(binaries() / program), f"--dbname={address}", "--no-password", *arguments],
        env={**os.environ, "PGPASSWORD": password},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise Refused(f"{program} failed: {done.stderr.strip()}", "Nothing was changed.")


def _pack(target: Path, parts: Mapping[Path, str]) -> None:
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)  # it holds labels
    with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w") as tar:
        for path, name in parts.items():
            if path.exists():
                tar.add(path, arcname=name)
        file.flush()
        os.fsync(descriptor)


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="mia-restore-") as folder:
        try:
            with tarfile.open(source, mode="r:") as tar:
                tar.extractall(folder, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise Refused(
                f"{source} cannot be read as a backup: {error}", "Name another."
            ) from error
        yield Path(folder)


def _read(folder: Path, source: Path) -> Contents:
    try:
        contents = msgspec.json.decode((folder / _CONTENTS).read_bytes(), type=Contents)
    except (OSError, msgspec.DecodeError) as error:
        raise Refused(f"{source} is no backup: {error}", "`mia backup` writes one.") from error
    if contents.format != _FORMAT:
        raise Refused(
            f"{source} has format {contents.format}, this code reads {_FORMAT}",
            f"Restore it with the version that wrote it: {contents.code_version}.",
        )
    return contents


def _home(settings: Settings) -> Home:
    return Home(Path(settings.home).absolute())


def _artifacts(settings: Settings) -> Path:
    return _home(settings).root / _ARTIFACTS
