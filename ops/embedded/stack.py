"""The embedded stack: Kafka and Postgres under one supervisor, in one folder."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from ops.embedded import jars
from ops.embedded.aot import with_class_cache
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

    bootstrap_servers: str = ""
    admin_dsn: str = ""


def _quiet(_: str) -> None:
    return


def _unseen(_: Sequence[ChildStatus]) -> None:
    return


class EmbeddedStack:
    """`async with EmbeddedStack(home) as stack`: Kafka and Postgres, ready, on free loopback ports.

    Stops both at the end and keeps their data; the same `home` starts again with the same ports.
    Both are restarted when they die. What `external` names is not started but taken from there.
    `more` are further children, started after their dependencies (`kafka`, `postgres`); it is
    called with the endpoints, which are known before anything runs. `progress` is told what one
    waits for, `changed` every change of any child's state. `locked` says that the caller holds the
    folder's lock already. `notes` tells what turned out otherwise than one would expect.

    Raises on entry:
        Refused: a prerequisite is missing, or a child did not start; nothing is left running.
    """

    def __init__(
        self,
        home: Path,
        settings: EmbeddedSettings | None = None,
        *,
        external: Endpoints | None = None,
        more: Callable[[Endpoints], Sequence[ChildSpec]] = lambda _: (),
        progress: Callable[[str], None] = _quiet,
        changed: Callable[[Sequence[ChildStatus]], None] = _unseen,
        locked: bool = False,
    ) -> None:
        self.home = Home(home.absolute())
        self._settings = settings or EmbeddedSettings()
        self._external = external or Endpoints()
        self._more, self._progress, self._changed = more, progress, changed
        self._locked = locked
        self.notes: list[str] = []
        self._kafka: Kafka | None = None
        self._postgres: Postgres | None = None
        self._open = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as undo:
            if not self._locked:
                undo.enter_context(self.home.locked())
            await asyncio.to_thread(self._plan)
            self.supervisor = Supervisor(self.home, self._specs(), self._changed)
            undo.push_async_callback(self.supervisor.stop)
            self._progress("starting")
            await self.supervisor.start()
            self._open = undo.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._open.aclose()

    @property
    def endpoints(self) -> Endpoints:
        """Where both listen."""
        return Endpoints(self.bootstrap_servers, self.admin_dsn)

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka's clients begin: `127.0.0.1:PORT`."""
        return self._kafka.bootstrap_servers if self._kafka else self._external.bootstrap_servers

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN of the database `postgres`, password included: never print it."""
        return self._postgres.dsn if self._postgres else self._external.admin_dsn

    @property
    def admin_password(self) -> str:
        """The superuser's password of our own Postgres: never print it."""
        if self._postgres is None:
            raise ValueError("Postgres is external: its password is in its file")
        return self._postgres.password

    def pid(self, name: str) -> int:
        """Return the process id of a child; 0 while it is down."""
        return self.supervisor.child(name).pid

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> int:
        """Signal a child as chance would: this process alone, unannounced. Returns its pid, or 0.

        `until_ready` afterwards waits for the next life, not for this one.
        """
        child = self.supervisor.child(name)
        pid = child.pid
        if not pid:
            return 0
        try:
            os.kill(pid, sig)
        except ProcessLookupError:  # it died by itself a moment ago
            return 0
        if sig == signal.SIGKILL:
            child.ready.clear()
        return pid

    async def until_ready(self, name: str) -> None:
        """Wait until a child answers requests (again)."""
        await self.supervisor.child(name).ready.wait()

    async def wipe_kafka(self) -> None:
        """Stop Kafka, delete all it holds, start it new and empty; returns when it answers."""
        if self._kafka is None:
            raise ValueError("Kafka is external: its data are not ours to delete")
        child = self.supervisor.child("kafka")
        await child.hold()
        await asyncio.to_thread(self._kafka.wipe)
        child.release()
        await child.ready.wait()

    def _specs(self) -> list[ChildSpec]:
        own = [part.spec() for part in (self._kafka, self._postgres) if part]
        return [*own, *self._more(self.endpoints)]

    def _plan(self) -> None:
        """Choose ports and see to it that everything needed is there."""
        if not self._external.bootstrap_servers:
            self._kafka = self._plan_kafka()
        if not self._external.admin_dsn:
            self._postgres = Postgres(self.home, self._port("postgres"), self._settings)

    def _plan_kafka(self) -> Kafka:
        self._progress("checking Java and Kafka's jars")
        java = find_java(self._settings.java)
        class_path = jars.class_path(self._settings.kafka_jars, self._progress)
        ports = self._port("kafka"), self._port("controller")
        kafka = Kafka(self.home, *ports, java, class_path, self._settings)
        return with_class_cache(kafka, self._progress, self.notes.append)

    def _port(self, name: str) -> int:
        port, remark = self.home.port(name, getattr(self._settings, f"{name}_port"))
        if remark:
            self.notes.append(remark)
        return port
