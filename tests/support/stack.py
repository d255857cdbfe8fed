"""Fixtures: one real Kafka and one real Postgres for the whole session, started on first use.

`stack` runs in a thread with a loop of its own, so that its children stay supervised between the
loops of single tests. `database` is a DSN of a fresh, empty database, `topic_prefix` a prefix that
no other test uses.
"""

import asyncio
import shutil
import tempfile
import threading
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import pytest

from ops.chaos.desk import execute
from ops.embedded.stack import EmbeddedStack
from ops.settings import EmbeddedSettings

__all__ = [
    "StackThread",
    "bootstrap_servers",
    "database",
    "fresh_database",
    "new_home",
    "small",
    "stack",
    "topic_prefix",
]

_T = TypeVar("_T")


def small() -> EmbeddedSettings:
    """Return settings that start fast and take little disk."""
    return EmbeddedSettings(postgres_wal_mb=64, postgres_shared_buffers_mb=128, kafka_heap_mb=384)


def new_home() -> Path:
    """Make a folder for a stack, outside pytest's own, which is closed to Postgres' account."""
    return Path(tempfile.mkdtemp(prefix="mia-test-"))


class StackThread:
    """An `EmbeddedStack` in a thread of its own: `with StackThread(home) as running: …`."""

    def __init__(self, home: Path, settings: EmbeddedSettings | None = None) -> None:
        self.stack = EmbeddedStack(home, settings or small())
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="stack", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self.run(self.stack.__aenter__())
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self.stack.__aexit__(None, None, None))
        finally:
            self._close()

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka's clients begin."""
        return self.stack.bootstrap_servers

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN."""
        return self.stack.admin_dsn

    def run(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine of the stack on its own loop, and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        """Do as `run`, without blocking the caller's loop."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def _close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


@pytest.fixture(scope="session")
def stack() -> Iterator[StackThread]:
    """Give the session's Kafka and Postgres; removed without trace at the end."""
    home = new_home()
    try:
        with StackThread(home) as running:
            yield running
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def bootstrap_servers(stack: StackThread) -> str:
    """Give where the session's Kafka listens."""
    return stack.bootstrap_servers


@pytest.fixture
def topic_prefix() -> str:
    """Give a prefix for the names of this test's topics."""
    return f"t{uuid.uuid4().hex[:10]}."


@pytest.fixture
async def database(stack: StackThread) -> AsyncIterator[str]:
    """Give the superuser's DSN of a fresh database; dropped after the test."""
    name = f"t{uuid.uuid4().hex[:12]}"
    dsn = await fresh_database(stack.admin_dsn, name)
    yield dsn
    await execute(stack.admin_dsn, f"drop database if exists {name} with (force)")


async def fresh_database(admin_dsn: str, name: str) -> str:
    """Create an empty database and return the superuser's DSN of it."""
    await execute(admin_dsn, f"create database {name}")
    return urlsplit(admin_dsn)._replace(path=f"/{name}").geturl()
