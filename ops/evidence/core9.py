"""core-9: the demo on a clean clone and on twenty real questions, a worker killed in between."""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any, Final

import msgspec

from ops.embedded import report
from ops.embedded.state import Home
from ops.errors import Refused
from ops.evidence.clone import Ran, clean_clone, run_in
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = "the demo on real vLLM: every question ends exactly once, a killed worker included"
_DATA: Final = Path("..") / "shared" / "data" / "hotpotqa_100.json"
_ENDED: Final = re.compile(r"(\d+) of (\d+) questions ended exactly once")
_AUDIT: Final = re.compile(r"audit: (\w+)")
_DIGEST: Final = re.compile(r"digest (\w{64})")


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """A demo: what it said at its end. `killed` is the worker that was killed, 0 for none."""

    ran: dict[str, Any]
    status: int
    ended_once: int
    expected: int
    audit: str
    digest: str
    killed: int = 0

    def kept(self, questions: int) -> bool:
        """Tell whether so many questions ended exactly once with a clean audit."""
        whole = self.ended_once == self.expected == questions
        return self.status == 0 and whole and self.audit == "clean"


async def evidence(*, short: bool = False) -> Evidence:
    """Run the demos; the short form runs the project's own questions alone."""
    async with clean_clone() as folder:
        own = _shown(await run_in(folder, ["make", "demo"]))
        claims = [Claim("make demo on a clean clone: 10 of 10, auditor clean", own.kept(10))]
        figures: dict[str, Shown] = {"make demo": own}
        if not short:
            figures |= await _real_questions(folder)
            claims += _judge(figures)
    return Evidence(figures=figures, claims=tuple(claims))


async def _real_questions(folder: Path) -> dict[str, Shown]:
    if not (folder / _DATA).exists():
        raise Refused(f"{_DATA} is not there", "Put a file in HotpotQA's format in that place.")
    return {
        "twenty questions": await _demo(folder, kill_at=0),
        "twenty questions, a worker killed": await _demo(folder, kill_at=8),
    }


def _judge(figures: dict[str, Shown]) -> list[Claim]:
    peace, killed = figures["twenty questions"], figures["twenty questions, a worker killed"]
    return [
        Claim("twenty real questions: 20 of 20, auditor clean", peace.kept(20)),
        Claim("a worker was killed in the middle of the same", killed.killed > 0),
        Claim("it changed neither: 20 of 20, auditor clean", killed.kept(20)),
    ]


async def _demo(folder: Path, *, kill_at: int) -> Shown:
    """Run the demo on twenty questions; kill a worker after so many answers (0: none)."""
    home = Path(tempfile.mkdtemp(prefix="mia-demo-"))
    answers, killed = 0, 0

    def heard(line: str) -> None:
        nonlocal answers, killed
        answers += " ANSWER" in line
        if kill_at and not killed and answers >= kill_at:
            killed = _kill_a_worker(home)

    try:
        command = [".venv/bin/mia", "demo", str(_DATA), "--limit", "20"]
        environment = {"MIA_HOME": str(home), "PYTHONUNBUFFERED": "1"}
        ran = await run_in(folder, command, environment=environment, heard=heard)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return msgspec.structs.replace(_shown(ran), killed=killed)


def _kill_a_worker(home: Path) -> int:
    """Kill the first process of workers that lives; its pid, or 0."""
    for child in report.read(Home(home)).children:
        if child.name.startswith("workers") and child.pid:
            os.kill(child.pid, signal.SIGKILL)
            return child.pid
    return 0


def _shown(ran: Ran) -> Shown:
    said = "\n".join(ran.lines)
    ended, audit, digest = _ENDED.search(said), _AUDIT.search(said), _DIGEST.search(said)
    return Shown(
        ran=ran.told(),
        status=ran.status,
        ended_once=int(ended.group(1)) if ended else 0,
        expected=int(ended.group(2)) if ended else 0,
        audit=audit.group(1) if audit else "",
        digest=digest.group(1) if digest else "",
    )
