"""main-8: two more executors join in the middle of a run and take their share."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, Final

from ops.chaos.desk import until
from ops.evidence.record import Claim, Evidence
from ops.evidence.streaming import RUN, SMALL, facts, stream
from ops.evidence.user import User, user

__all__ = ["TITLE", "evidence"]

TITLE: Final = "two more executors join in the middle of a run; no step is lost or doubled"
_SHARE: Final = 0.25
_LIMIT_S: Final = 3_600.0
#: A claim's number begins with its worker's.
_STEPS: Final = """
SELECT w.name, count(*) AS steps FROM event AS e
JOIN run AS u ON u.run_no = e.run_no JOIN worker AS w ON w.worker_no = e.claim >> 32
WHERE u.name = $1 GROUP BY 1
"""
_JUDGED: Final = """
SELECT count(*) AS n FROM event AS e JOIN run AS u ON u.run_no = e.run_no
WHERE u.name = $1 AND e.type = 'rollout.judged'
"""


async def evidence(*, short: bool = False) -> Evidence:
    """Stream a benchmark; when a quarter of the rollouts has been judged, start
    `mia worker execute` twice.
    """
    async with user(**SMALL) as someone:
        await someone.mia("up")
        hired = _Hired(someone)
        try:
            streamed = await stream(someone, 12 if short else 32, hired.join)
            shares = {row["name"]: row["steps"] for row in await facts(someone, _STEPS, RUN)}
        finally:
            await hired.leave()
    took = {str(pid): _of(shares, pid) for pid in hired.pids}
    return Evidence(
        figures={"run": streamed, "steps by worker": shares, "steps of those who joined": took},
        claims=(
            streamed.ended_once(),
            Claim(f"both took steps: {took}", len(took) == 2 and all(took.values())),  # noqa: PLR2004
            Claim("both stopped when asked, with exit status 0", hired.statuses == [0, 0]),
        ),
    )


async def _judged(someone: User) -> int:
    return int((await facts(someone, _JUDGED, RUN))[0]["n"])


def _of(shares: dict[str, int], pid: int) -> int:
    """A process has a worker for each database role, named after both: `host:pid role`."""
    return sum(n for name, n in shares.items() if name.split()[0].endswith(f":{pid}"))


class _Hired:
    """Two processes of `mia worker execute`."""

    def __init__(self, someone: User) -> None:
        self._user = someone
        self._processes: list[asyncio.subprocess.Process] = []
        self.statuses: list[int] = []

    @property
    def pids(self) -> list[int]:
        """Their process ids."""
        return [process.pid for process in self._processes]

    async def join(self, someone: User, questions: int) -> dict[str, Any]:
        """Start both when a quarter has been judged: questions end later, when all is executed."""
        share = max(1, int(questions * _SHARE))

        async def reached() -> bool:
            return await _judged(someone) >= share

        await until("a quarter has been judged", reached, limit_s=_LIMIT_S)
        judged = await _judged(someone)
        command = str(Path(sys.executable).parent / "mia")
        environment = {**os.environ, **someone.settings, "MIA_HOME": str(someone.home)}
        for _ in range(2):
            self._processes.append(
                await asyncio.create_subprocess_exec(
                    command, "worker", "execute", env=environment, stderr=asyncio.subprocess.DEVNULL
                )
            )
        return {"joined_when_judged": judged}

    async def leave(self) -> None:
        """Stop both; they give back what they hold."""
        for process in self._processes:
            if process.returncode is None:
                process.terminate()
            self.statuses.append(await process.wait())
