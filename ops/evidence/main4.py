"""main-4: what kills, a hung model server and a full disk do to a run: they delay it."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any, Final

from ops.evidence.disk import full_disk, judge_disk
from ops.evidence.hits import hit
from ops.evidence.record import Claim, Evidence
from ops.evidence.streaming import RUN, SMALL, Streamed, stream
from ops.evidence.user import User, user

__all__ = ["TITLE", "evidence"]

TITLE: Final = "kill -9 of every part, a hung vLLM and a full disk delay a run and lose nothing"
_VICTIMS: Final = ("workers", "kafka", "postgres", "vllm-chat")
_HUNG_S: Final = 60.0
_FULL_S: Final = 20.0
_DISK_MB: Final = 1_500
_LIMIT_S: Final = 600.0


async def evidence(*, short: bool = False) -> Evidence:
    """Stream a benchmark under kills and a hang, then fill a small disk under another run."""
    async with user(**SMALL) as someone:
        await someone.mia("up")
        streamed = await stream(someone, 10 if short else 48, _trouble)
    disk = await full_disk(12 if short else 60)
    return Evidence(
        figures={"kills and a hang": streamed, "a full disk": disk},
        claims=(*_judge_kills(streamed), *judge_disk(disk)),
    )


async def _trouble(someone: User, questions: int) -> dict[str, Any]:
    """Kill one part after another as the run goes on; stop vLLM for a minute near the end."""
    killed: dict[str, int] = {}
    for number, victim in enumerate(_VICTIMS, start=1):
        await _reached(someone, questions * number // 8)
        killed[victim] = hit(someone.home, victim)
    before = (await _reached(someone, questions * 5 // 8))["ended"]
    hung = hit(someone.home, "vllm-chat", signal.SIGSTOP)
    await asyncio.sleep(_HUNG_S)
    during = (await someone.run_state(RUN))["ended"]
    os.killpg(hung, signal.SIGCONT)
    return {"killed": killed, "hung": hung, "ended before": before, "ended while hung": during}


async def _reached(someone: User, ended: int) -> dict[str, Any]:
    return await someone.until(RUN, lambda run: bool(run["ended"] >= ended), limit_s=3_600)


def _judge_kills(streamed: Streamed) -> list[Claim]:
    killed, hung = streamed.trouble["killed"], streamed.trouble["hung"]
    return [
        Claim(f"killed with -9 while they worked: {', '.join(killed)}", all(killed.values())),
        Claim(f"vLLM was stopped for {_HUNG_S:g} s", hung > 0),
        streamed.ended_once("under all that: "),
    ]
