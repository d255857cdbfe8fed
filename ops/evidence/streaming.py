"""A benchmark streamed through the whole stack on real vLLM, and what came of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec

from ops.connect import connections
from ops.demo.show import BRIEF_TOKENS
from ops.errors import Refused
from ops.evidence.record import Claim
from ops.evidence.user import User
from ops.settings import Settings

__all__ = [
    "RUN",
    "SMALL",
    "Streamed",
    "Trouble",
    "benchmark_file",
    "facts",
    "no_trouble",
    "stream",
]

RUN: Final = "hotpot"
#: What the demo gives a small model to say; a reviewer needs more words than a judge.
SMALL: Final = {
    f"MIA_MODELS__{role.upper()}__SAMPLING__MAX_TOKENS": str(most)
    for role, most in {**BRIEF_TOKENS, "judge": 112}.items()
}
_DATA: Final = Path(__file__).parents[3] / "shared" / "data" / "hotpotqa_100.json"
_LIMIT_S: Final = 3_600.0
_GRADES: Final = ("correct", "incorrect", "not_attempted")
_ROLLOUTS: Final = """
SELECT coalesce(r.outcome, 'open') AS outcome, count(*) AS n FROM rollout AS r
JOIN run AS u ON u.run_no = r.run_no WHERE u.name = $1 GROUP BY 1 ORDER BY 1
"""
_MEMORIES: Final = """
SELECT (SELECT count(*) FROM memory AS m WHERE m.scope = u.scope) AS written,
       (SELECT count(DISTINCT c.memory) FROM memory_credit AS c
        JOIN question AS q ON q.id = c.question WHERE q.run_no = u.run_no) AS used,
       (SELECT count(DISTINCT c.question) FROM memory_credit AS c
        JOIN question AS q ON q.id = c.question WHERE q.run_no = u.run_no) AS questions_that_used
FROM run AS u WHERE u.name = $1
"""

Trouble = Callable[[User, int], Awaitable[Any]]


class Streamed(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a run: its audit in numbers, its rollouts by outcome, its memories."""

    questions: int
    accepted: int
    ended: int
    answered: int
    failed: int
    clean: bool
    audit: dict[str, Any]
    digest: str
    rollouts: dict[str, int]
    memories: dict[str, int]
    seconds: float
    trouble: Any = None

    def ended_once(self, where: str = "") -> Claim:
        """Claim that every question ended exactly once and the auditor found no fault."""
        whole = self.clean and self.questions == self.accepted == self.ended
        return Claim(f"{where}{self.ended} of {self.questions} ended exactly once, clean", whole)

    @property
    def judged(self) -> bool:
        """Every rollout has a grade."""
        return bool(self.rollouts) and set(self.rollouts) <= set(_GRADES)


async def no_trouble(_: User, __: int) -> None:
    """Leave the stack alone."""


async def stream(someone: User, questions: int, trouble: Trouble = no_trouble) -> Streamed:
    """Ingest so many questions, make trouble meanwhile, wait for the end; the stack is up."""
    loop = asyncio.get_running_loop()
    # Forty questions are in flight: a CPU that decodes for many takes hardly longer than for one.
    batches = ("--mode", "batch", "--batch-size", "10", "--rollouts", "1", "--lag", "3")
    turns = ("--max-turns", "4")
    await someone.mia("run", "create", RUN, *batches, *turns)
    began = loop.time()
    await someone.mia("ingest", str(benchmark_file()), "--run", RUN, "--limit", str(questions))
    await someone.until(RUN, lambda run: bool(run["accepted"] == questions), limit_s=300)
    troubled = await trouble(someone, questions)
    await someone.mia("run", "close", RUN)
    await someone.until(RUN, lambda run: bool(run["state"] == "ended"), limit_s=_LIMIT_S)
    seconds = loop.time() - began
    report = await someone.audited(RUN)
    (told,) = report["runs"]
    return Streamed(
        questions=questions,
        clean=report["clean"],
        audit=report["said"],
        seconds=round(seconds, 1),
        trouble=troubled,
        rollouts={row["outcome"]: row["n"] for row in await facts(someone, _ROLLOUTS, RUN)},
        memories=dict((await facts(someone, _MEMORIES, RUN))[0]),
        **{name: told[name] for name in ("accepted", "ended", "answered", "failed", "digest")},
    )


def benchmark_file() -> Path:
    """Return a file in HotpotQA's format. Raises `Refused` where there is none."""
    if not _DATA.exists():
        raise Refused(f"{_DATA} is not there", "Put a file in HotpotQA's format in that place.")
    return _DATA


async def facts(someone: User, query: str, *arguments: object) -> list[Any]:
    """Ask the ledger of a user's running stack, as the auditor."""
    dsn = connections(Settings(home=str(someone.home))).dsn("mia_audit")
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetch(query, *arguments)
    finally:
        await connection.close()
