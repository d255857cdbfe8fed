"""Worker processes that are started again when they die, each with a log of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Self

import msgspec

from ops.embedded.spec import launch
from ops.worker import WorkerConfig

__all__ = ["NOTHING", "ROOT", "Crew", "Member"]

#: Where `python -m` finds the packages.
ROOT = Path(__file__).parents[2]
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})
_RESTART_S = 0.2
_PATIENCE_S = 60.0


class Member:
    """One worker: `pid` is 0 while it is down, `deaths` counts ends that nobody asked for.

    `variables` are added to its environment.
    """

    def __init__(
        self, name: str, config: WorkerConfig, log: Path, variables: Mapping[str, str] = NOTHING
    ) -> None:
        self.name = name
        self.config = config
        self.log = log
        self.variables = variables
        self.pid = 0
        self.deaths = 0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Run it until `stop`."""
        self._task = asyncio.create_task(self._live(), name=self.name)

    def signal(self, number: signal.Signals) -> int:
        """Signal its process as chance would; the pid that was hit, 0 when it is down."""
        pid = self.pid
        if pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    async def stop(self) -> None:
        """End it gracefully, by force after a minute."""
        self._stopping = True
        self.signal(signal.SIGTERM)
        if self._task is None:
            return
        done, _ = await asyncio.wait({self._task}, timeout=_PATIENCE_S)
        if not done:
            self.signal(signal.SIGKILL)
        await self._task

    async def _live(self) -> None:
        while not self._stopping:
            process = await self._spawn()
            self.pid = process.pid
            await process.wait()
            self.pid = 0
            if not self._stopping:
                self.deaths += 1
                await asyncio.sleep(_RESTART_S)

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *launch([sys.executable, "-m", "ops.worker"], None),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd=ROOT,
                env={**os.environ, **self.variables},
            )
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(msgspec.json.encode(self.config) + b"\n")
                await process.stdin.drain()
            process.stdin.close()
        return process


class Crew:
    """All workers of a cluster; ends them with itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.members: dict[str, Member] = {}

    async def __aenter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop_all()

    def start(
        self, name: str, config: WorkerConfig, variables: Mapping[str, str] = NOTHING
    ) -> Member:
        """Start a worker under a name that no other has."""
        if name in self.members:
            raise ValueError(f"there is a worker {name!r} already: choose another name")
        member = Member(name, config, self._folder / f"{name}.log", variables)
        self.members[name] = member
        member.start()
        return member

    async def stop(self, name: str) -> None:
        """End a worker gracefully and forget it."""
        await self.members[name].stop()
        del self.members[name]

    async def stop_all(self) -> None:
        """End every worker gracefully, together."""
        await asyncio.gather(*(member.stop() for member in self.members.values()))
        self.members.clear()

    @property
    def deaths(self) -> int:
        """How often a worker ended without having been asked to."""
        return sum(member.deaths for member in self.members.values())

    def logs(self) -> list[Path]:
        """What every worker has said, those that were stopped included."""
        return sorted(self._folder.glob("*.log"))
