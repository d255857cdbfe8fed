"""A user of the command line: a state folder, the settings that go with it, commands one by one."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ops.errors import Refused
from ops.evidence.clone import Ran, run_in

__all__ = ["User", "user"]

_HERE = Path(__file__).parents[2]
_POLL_S = 4.0  # each look is a process
_AWAY_S = 120.0


class User:
    """Runs `mia` on one state folder. Commands that fail raise `Refused` with what they said."""

    def __init__(self, home: Path, settings: Mapping[str, str]) -> None:
        self.home = home
        self.settings = dict(settings)

    async def mia(
        self, *arguments: str, may_fail: bool = False, heard: Callable[[str], None] = lambda _: None
    ) -> Ran:
        """Run one command to its end."""
        environment = {**self.settings, "MIA_HOME": str(self.home)}
        command = [str(Path(sys.executable).parent / "mia"), *arguments]
        ran = await run_in(_HERE, command, environment=environment, heard=heard)
        if ran.status and not may_fail:
            raise Refused(f"`mia {' '.join(arguments)}` failed", "\n".join(ran.tail))
        return ran

    async def told(self, *arguments: str, may_fail: bool = False) -> list[dict[str, Any]]:
        """Run one command that prints JSON lines; what it printed."""
        ran = await self.mia(*arguments, may_fail=may_fail)
        return [json.loads(line) for line in ran.lines if line.startswith("{")]

    async def run_state(self, run: str) -> dict[str, Any]:
        """Return what `mia run list` says of a run."""
        return {line["name"]: line for line in await self.told("run", "list")}[run]

    async def until(
        self, run: str, reached: Callable[[dict[str, Any]], bool], *, limit_s: float
    ) -> dict[str, Any]:
        """Wait until a run has come so far, whatever dies meanwhile; its state then.

        Raises:
            TimeoutError: it has not come so far.
            Refused: it could not be seen for two minutes.
        """
        seen = began = time.monotonic()
        while True:
            try:
                state = await self.run_state(run)
            except Refused:  # the database is away
                if time.monotonic() > seen + _AWAY_S:
                    raise
            else:
                seen = time.monotonic()
                if reached(state):
                    return state
                if seen > began + limit_s:
                    raise TimeoutError(f"run {run} stands at {state} after {limit_s:g} s")
            await asyncio.sleep(_POLL_S)

    async def audited(self, run: str) -> dict[str, Any]:
        """Audit a run that should have ended: the report, and `clean` by the exit status."""
        ran = await self.mia("audit", run, "--closed", "--json", may_fail=True)
        report: dict[str, Any] = json.loads(ran.lines[-1])
        kept = ("verdict", "complete", "counts", "faults", "topics_unread", "topics_missing")
        said = {name: report.get(name) for name in kept}
        return report | {"clean": ran.status == 0, "said": said}


@asynccontextmanager
async def user(**settings: str) -> AsyncIterator[User]:
    """Give a user with an empty state folder; what was started is stopped and removed."""
    home = Path(tempfile.mkdtemp(prefix="mia-user-"))
    someone = User(home, settings)
    try:
        yield someone
    finally:
        await someone.mia("down", may_fail=True)
        await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
