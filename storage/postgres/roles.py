"""Database roles: what separates those who may read labels from those who may not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit, urlunsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Mapping

#: worker: every stage but the judge; admit: takes questions and labels in; audit: reads everything.
ROLES: Final = ("mia_worker", "mia_judge", "mia_admit", "mia_audit")
_TRIES: Final = 20
_PAUSE_S: Final = 0.1


async def ensure_roles(connection: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    """Make the roles that are missing and set every password (`passwords` by role)."""
    for role in ROLES:
        await _patiently(connection, role, passwords[role])


async def _patiently(connection: asyncpg.Connection, role: str, password: str) -> None:
    """Roles belong to the whole server, and Postgres refuses two who change one at once."""
    for _ in range(_TRIES):
        try:
            await _ensure(connection, role, password)
        except (
            asyncpg.InternalServerError,  # "tuple concurrently updated"
            asyncpg.DuplicateObjectError,
            asyncpg.UniqueViolationError,
        ):
            await asyncio.sleep(_PAUSE_S)
        else:
            return
    await _ensure(connection, role, password)


async def _ensure(connection: asyncpg.Connection, role: str, password: str) -> None:
    if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
        await connection.execute(f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE")
    # A utility statement takes no parameters: the server quotes the password itself.
    statement = await connection.fetchval(
        "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)", role, password
    )
    await connection.execute(statement)


def role_dsn(dsn: str, role: str, password: str) -> str:
    """The same database as another role."""
    parts = urlsplit(dsn)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{host}"))


__all__ = ["ROLES", "ensure_roles", "role_dsn"]
