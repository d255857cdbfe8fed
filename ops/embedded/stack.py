"""The embedded stack: Kafka and Postgres under one supervisor, in one folder."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ops.embedded import jars
from ops.embedded.java import find_java
from ops.embedded.kafka import Kafka
from ops.embedded.postgres import Postgres
from ops.embedded.state import Home
from ops.embedded.supervisor import ChildSpec, ChildStatus, Supervisor
from ops.settings import EmbeddedSettings

__all__ = ["EmbeddedStack", "Endpoints"]


@dataclass(frozen=True)
class Endpoints:
    """Where the stack listens. `admin_dsn` is the superuser's and holds a password: never print."""

    bootstrap_servers: str
    admin_dsn: str


def _quiet(_: str) -> None:
    return


def _unseen(_: Sequence[ChildStatus]) -> None:
    return


class EmbeddedStack:
    """`async with EmbeddedStack(home) as stack`: Kafka and Postgres, ready, on free loopback ports.

    Stops both at the end and keeps their data; the same `home` starts again with the same ports.
    Both are restarted when they die. `more` are further children, started after their
    dependencies (`kafka`, `postgres`); it is called with the endpoints, which are known before
    anything runs.
    """

    def __init__(
        self,
        home: Path,
        settings: EmbeddedSettings | None = None,
        *,
        more: Callable[[Endpoints], Sequence[ChildSpec]] = lambda _: (),
        progress: Callable[[str], None] = _quiet,
        changed: Callable[[Sequence[ChildStatus]], None] = _unseen,
    ) -> None:
        self.home = Home(home.absolute())
        self._settings = settings or EmbeddedSettings()
        self._more, self._progress, self._changed = more, progress, changed
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as undo:
            undo.enter_context(self.home.locked())
            await asyncio.to_thread(self._plan)
            specs = [self._kafka.spec(), self._postgres.spec(), *self._more(self.endpoints)]
            self.supervisor = Supervisor(self.home, specs, self._changed)
            undo.push_async_callback(self.supervisor.stop)
            await self.supervisor.start()
            self._open = undo.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._open.aclose()

    @property
    def endpoints(self) -> Endpoints:
        """Where both listen."""
        return Endpoints(self._kafka.bootstrap_servers, self._postgres.dsn)

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka's clients begin: `127.0.0.1:PORT`."""
        return self._kafka.bootstrap_servers

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN of the database `postgres`, password included: never print it."""
        return self._postgres.dsn

    def pid(self, name: str) -> int:
        """Return the process id of a child; 0 while it is down."""
        return self.supervisor.child(name).pid

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Kill a child as chance would: this process alone, unannounced. Returns its pid."""
        pid = self.pid(name)
        if pid:
            os.kill(pid, sig)
        return pid

    async def until_ready(self, name: str) -> None:
        """Wait until a child answers requests (again)."""
        await self.supervisor.child(name).ready.wait()

    async def wipe_kafka(self) -> None:
        """Stop Kafka, delete all it holds, start it new and empty; returns when it answers."""
        child = self.supervisor.child("kafka")
        await child.hold()
        await asyncio.to_thread(self._kafka.wipe)
        child.release()
        await child.ready.wait()

    def _plan(self) -> None:
        """Choose ports and see to it that everything needed is there."""
        settings, home = self._settings, self.home
        self._progress("looking for Java and Kafka's jars")
        java = find_java(settings.java)
        class_path = jars.class_path(settings.kafka_jars, self._progress)
        ports = {}
        for name in ("kafka", "controller", "postgres"):
            ports[name], remark = home.port(name, getattr(settings, f"{name}_port"))
            if remark:
                self._progress(remark)
        self._kafka = Kafka(home, ports["kafka"], ports["controller"], java, class_path, settings)
        self._postgres = Postgres(home, ports["postgres"], settings)
        self._progress("starting Kafka and Postgres")
