"""Topics that lag: nobody consumes, then somebody slow, then somebody who was stopped."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from mia_events import topics
from mia_events.steps import RunView
from ops.chaos.broker import records_of, sent_again
from ops.chaos.cluster import Cluster, Stack, cluster, scripted_manifest
from ops.chaos.desk import until
from ops.chaos.questions import cities
from ops.chaos.trial import Outcome, outcome_of

__all__ = ["Lagging", "lag_trial"]

_GRACE_S: Final = 3.0
_SWEEP_S: Final = 0.5
_HELD: Final = "SELECT count(*) FROM active WHERE run_no = $1 AND claim IS NOT NULL"
_UNMARKED: Final = """
SELECT count(*) FROM active
WHERE run_no = $1 AND topic IS NOT NULL AND claim IS NULL AND sent_offset IS NULL
"""
_FREE: Final = (
    "SELECT count(*) FROM active WHERE run_no = $1 AND topic IS NOT NULL AND claim IS NULL"
)


class Lagging(msgspec.Struct, frozen=True, kw_only=True):
    """What lay in the topics and what was sent again, phase by phase.

    Counted from the topics themselves. Bounds: nothing was lost and no mark of a place was lost in
    the first two phases, so nothing may be sent again. In the third a command whose lease ran out
    (`held`) is sent once more, since its record has been taken from the topic; so is one whose
    place its publisher did not note down any more when it was stopped (`unmarked`).
    """

    waiting: int
    idle_s: float
    sweeps: int
    again_idle: int
    left_by_slow: int
    slow_s: float
    again_slow: int
    held: int
    unmarked: int
    again_stopped: int
    again_in_all: Mapping[str, int]
    outcome: Outcome


async def lag_trial(stack: Stack, folder: Path, *, short: bool) -> Lagging:
    """Let a run lag in three ways, then finish it."""
    count, phase_s = (30, 8.0) if short else (200, 30.0)
    settings: dict[str, Any] = {"grace_s": _GRACE_S, "sweep_every_s": _SWEEP_S, "lease_s": 3.0}
    async with cluster(stack, folder, **settings) as lab:
        run, began = await _fill(lab, count)
        await asyncio.sleep(phase_s)
        waiting, idle = len((await records_of(lab, topics.PLAN))[topics.PLAN]), await _again(lab)
        slow = lab.hire("slow", _STAGES, slots=4, local_dispatch=False)
        await until("the slow worker works", lambda: _works(lab, run), limit_s=60, every_s=0.1)
        await asyncio.sleep(phase_s)
        left, again_slow = int(await lab.desk.value(_FREE, run.run_no)), await _again(lab)
        slow.signal(signal.SIGSTOP)
        held = int(await lab.desk.value(_HELD, run.run_no))
        unmarked = int(await lab.desk.value(_UNMARKED, run.run_no))
        await asyncio.sleep(phase_s)
        again_stopped = await _again(lab) - again_slow
        slow.signal(signal.SIGCONT)
        outcome = await _finish(lab, run, began)
        in_all = await sent_again(lab)
    return Lagging(
        waiting=waiting,
        idle_s=phase_s,
        sweeps=2 * int(phase_s / (_SWEEP_S * 1.3)),
        again_idle=idle,
        left_by_slow=left,
        slow_s=phase_s,
        again_slow=again_slow,
        held=held,
        unmarked=unmarked,
        again_stopped=again_stopped,
        again_in_all=in_all,
        outcome=outcome,
    )


#: Those who work; two others admit and sweep all the while.
_STAGES: Final = ("plan", "execute", "tool-call", "reflect", "judge", "consolidate")


async def _fill(lab: Cluster, count: int) -> tuple[RunView, float]:
    """Open so many questions with nobody to work on them."""
    for number in (1, 2):
        lab.hire(f"sweeper-{number}", ("admit", "sweep"))
    manifest = scripted_manifest(mode="live", deterministic=False, rollouts=2, max_in_flight=count)
    run, began = await lab.create_run("lagging", manifest), time.monotonic()
    await lab.ask(run, cities(count, " [[sleep 0.3]]"))
    await lab.until_accepted(run, count)

    async def all_there() -> bool:
        return len((await records_of(lab, topics.PLAN)).get(topics.PLAN, ())) >= count

    await until(f"{count} commands lie in {topics.PLAN}", all_there, limit_s=60)
    return run, began


async def _works(lab: Cluster, run: RunView) -> bool:
    return bool(await lab.desk.value(_HELD, run.run_no))


async def _again(lab: Cluster) -> int:
    return sum((await sent_again(lab)).values())


async def _finish(lab: Cluster, run: RunView, began: float) -> Outcome:
    lab.hire("fast", _STAGES, slots=64)
    await lab.close_run(run)
    await lab.until_ended(run)
    return await outcome_of(lab, run, lag=0, seconds=time.monotonic() - began)
