"""Starts children in order, keeps them alive, stops them in reverse order."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Sequence

from ops.embedded import identity, logs
from ops.embedded.child import Child, StartFailed
from ops.embedded.spec import ChildSpec, ChildStatus, RestartPolicy
from ops.embedded.state import Home
from ops.errors import Refused

__all__ = [
    "ChildSpec",
    "ChildStatus",
    "RestartPolicy",
    "StartFailed",
    "Supervisor",
    "end_leftovers",
]

_CAP_EVERY_S = 5.0


def _nothing(_: Sequence[ChildStatus]) -> None:
    return


class Supervisor:
    """Runs children in a state folder that the caller has locked.

    `changed` is told every change of any child's state, with the states of all.
    """

    def __init__(
        self,
        home: Home,
        specs: Sequence[ChildSpec],
        changed: Callable[[Sequence[ChildStatus]], None] = _nothing,
    ) -> None:
        self._home = home
        self._told = changed
        self._children = {spec.name: Child(spec, home, self._tell) for spec in specs}
        self._tasks: list[asyncio.Task[None]] = []
        self._housekeeping: asyncio.Task[None] | None = None
        self._check(specs)

    def _check(self, specs: Sequence[ChildSpec]) -> None:
        seen: set[str] = set()
        for spec in specs:
            missing = set(spec.depends_on) - seen
            if missing:
                raise ValueError(
                    f"{spec.name} depends on {', '.join(sorted(missing))}: list it before"
                )
            seen.add(spec.name)

    def child(self, name: str) -> Child:
        """Return a child by its name."""
        return self._children[name]

    def status(self) -> list[ChildStatus]:
        """Return what every child is doing, in the order of their start."""
        return [child.status() for child in self._children.values()]

    async def start(self) -> None:
        """Start all children; returns when each answers a real request.

        Raises:
            StartFailed: one never became ready. Call `stop` to end the others.
        """
        await asyncio.to_thread(end_leftovers, self._home)
        self._tasks = [
            asyncio.create_task(self._run(child), name=f"child {name}")
            for name, child in self._children.items()
        ]
        self._housekeeping = asyncio.create_task(self._keep_house())
        ready = asyncio.ensure_future(self._all_ready())
        try:
            await asyncio.wait({ready, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ready.cancel()
        for task in self._tasks:
            if task.done():
                task.result()

    async def watch(self) -> None:
        """Return only by raising what made a child's supervision fail."""
        if not self._tasks:  # everything is external
            await asyncio.Event().wait()
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_EXCEPTION)
        for task in done:
            task.result()

    async def stop(self) -> None:
        """Stop every child after those that depend on it."""
        stopping: dict[str, asyncio.Task[None]] = {}
        for name in reversed(self._children):
            after = [stopping[n] for n, c in self._children.items() if name in c.spec.depends_on]
            stopping[name] = asyncio.create_task(self._stop(self._children[name], after))
        await asyncio.gather(*stopping.values())
        leftover = [*self._tasks, *([self._housekeeping] if self._housekeeping else [])]
        for task in leftover:
            task.cancel()
        await asyncio.gather(*leftover, return_exceptions=True)

    async def _run(self, child: Child) -> None:
        for name in child.spec.depends_on:
            await self._children[name].ready.wait()
        await child.supervise()

    async def _stop(self, child: Child, after: Sequence[asyncio.Task[None]]) -> None:
        await asyncio.gather(*after)
        await child.stop()

    async def _all_ready(self) -> None:
        await asyncio.gather(*(child.ready.wait() for child in self._children.values()))

    async def _keep_house(self) -> None:
        while True:
            await asyncio.sleep(_CAP_EVERY_S)
            with contextlib.suppress(FileNotFoundError):
                logs.cap(self._home.logs)

    def _tell(self) -> None:
        self._told(self.status())


def end_leftovers(home: Home) -> list[str]:
    """End children that outlived a supervisor killed with -9, and return their names.

    The kernel signals them on Linux; they may still be at it, and other systems do not. A pid file
    of before a reboot names no living process and is removed.
    """
    ended = []
    for path in home.run.glob("*.pid.json"):
        left = identity.load(path)
        if left is not None:
            _end(left)
            ended.append(path.name.removesuffix(".pid.json"))
        path.unlink(missing_ok=True)
    return ended


def _end(left: identity.Identity) -> None:
    try:
        identity.end(left, signal.SIGTERM, 15.0)
    except PermissionError as error:
        raise Refused(
            f"process {left.pid} is left over and belongs to another user",
            f"End it with the rights of that user: kill {left.pid}",
        ) from error
