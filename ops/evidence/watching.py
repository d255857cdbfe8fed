"""What only a running stack can be asked: the memory of its parts, the versions at its servers."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final

from ops.embedded import report
from ops.embedded.state import Home
from ops.serving.child import report_file
from ops.serving.process import read_report

__all__ = ["Seen", "watching"]

_SERVED_EVERY_S: Final = 0.5
_MEMORY_EVERY_S: Final = 5.0  # a look goes through all processes of the machine
_GIB: Final = 1 << 30


class Seen:
    """`served`: when a version, by its server's name for it, was first there. `most`: GiB that a
    part held with all that it started; `together`, all parts at one time.
    """

    def __init__(self) -> None:
        self.served: dict[str, datetime] = {}
        self.most: dict[str, float] = {}
        self.together = 0.0

    def look_at_servers(self, home: Home) -> None:
        """See which versions servers have, as the process that loads them tells."""
        level = read_report(report_file(home))
        if level is not None:
            for name in [name for one in level.replicas for name in one.serves]:
                self.served.setdefault(name, level.at)

    def look_at_memory(self, home: Home) -> None:
        """See what the stack's children hold."""
        now = {
            child.name: report.memory_bytes(child.pid) / _GIB
            for child in report.read(home).children
            if child.pid
        }
        self.most |= {name: max(gib, self.most.get(name, 0.0)) for name, gib in now.items()}
        self.together = max(self.together, sum(now.values()))

    def memory(self) -> dict[str, float]:
        """The most memory, by part."""
        rounded = {name: round(gib, 2) for name, gib in sorted(self.most.items())}
        return {**rounded, "together": round(self.together, 2)}


@asynccontextmanager
async def watching(folder: Path) -> AsyncIterator[Seen]:
    """Watch the stack of a state folder meanwhile."""
    seen, home = Seen(), Home(folder)

    async def look(at: Callable[[Home], None], every_s: float) -> None:
        while True:
            await asyncio.to_thread(at, home)
            await asyncio.sleep(every_s)

    watchers = asyncio.gather(
        look(seen.look_at_servers, _SERVED_EVERY_S), look(seen.look_at_memory, _MEMORY_EVERY_S)
    )
    try:
        yield seen
    finally:
        watchers.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watchers
