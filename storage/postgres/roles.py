"""Database roles: what separates those who may read labels from those who may not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import asyncpg

#: worker: every stage but the judge; admit: takes questions and labels in; audit: reads everything.
ROLES: Final = ("mia_worker", "mia_judge", "mia_admit", "mia_audit")


async def ensure_roles(connection: asyncpg.Connection, passwords: Mapping[str, str]) -> None:
    """Make the roles that are missing and set every password (`passwords` by role)."""
    for role in ROLES:
        if not await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(
                f"CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE"
            )
        # A utility statement takes no parameters: the server quotes the password itself.
        statement = await connection.fetchval(
            "SELECT format('ALTER ROLE %I PASSWORD %L', $1::text, $2::text)", role, passwords[role]
        )
        await connection.execute(statement)


def role_dsn(dsn: str, role: str, password: str) -> str:
    """The same database as another role."""
    parts = urlsplit(dsn)
    host = parts.netloc.rsplit("@", 1)[-1]
    return urlunsplit(parts._replace(netloc=f"{role}:{quote(password, safe='')}@{host}"))


__all__ = ["ROLES", "ensure_roles", "role_dsn"]
