"""Connections: a durable pool for commits, and one whose commits do not wait for the disk."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from typing import Any, TypeAlias

    from asyncpg.pool import PoolConnectionProxy

    #: A connection, our own or borrowed from a pool.
    Connection: TypeAlias = asyncpg.Connection[Any] | PoolConnectionProxy[Any]


class Unavailable(ConnectionError):
    """The database does not answer now; what was asked may or may not have happened."""


#: Errors after which the same request may be made again.
RETRYABLE: tuple[type[BaseException], ...] = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,
    asyncpg.DiskFullError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Turn errors of the connection (not of the statement) into `Unavailable`."""
    try:
        yield
    except RETRYABLE as error:
        message = f"the database does not answer: {type(error).__name__}: {error}"
        raise Unavailable(message) from error


async def open_pool(dsn: str, *, size: int, durable: bool = True) -> asyncpg.Pool:
    """A pool of up to `size` connections. Raises `Unavailable`."""
    settings = {
        "application_name": "mia",
        "jit": "off",
        # Statements are few and prepared: planning one anew can cost more than running it.
        "plan_cache_mode": "force_generic_plan",
        # A process that is stopped inside a transaction must not hold its locks for ever.
        "idle_in_transaction_session_timeout": "30s",
        # A host that is gone must not keep its session, and the session's lock, for hours.
        "tcp_keepalives_idle": "30",
        "tcp_keepalives_interval": "10",
        "tcp_keepalives_count": "3",
    }
    if not durable:
        settings["synchronous_commit"] = "off"
    async with answering():
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            command_timeout=60,
            server_settings=settings,
            reset=_keep,
        )


async def _keep(_: object) -> None:
    """Leave a returned connection as it is: nothing here sets more than a transaction's own
    settings, and the usual reset is a second round trip after every call.
    """


__all__ = ["RETRYABLE", "Unavailable", "answering", "open_pool"]
