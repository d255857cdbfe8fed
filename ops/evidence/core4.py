"""core-4: a worker stopped too long commits nothing others took; a long call is made once."""

from __future__ import annotations

import asyncio
import re
import signal
import time
from pathlib import Path
from typing import Any, Final

import msgspec

from mia_events import topics
from mia_events.steps import Manifest, RunView
from ops.chaos.broker import group_is
from ops.chaos.cluster import Cluster, Stack, cluster, scripted_manifest
from ops.chaos.crew import Member
from ops.chaos.desk import until
from ops.chaos.questions import cities
from ops.chaos.stops import stop_still
from ops.chaos.trial import Outcome, outcome_of
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = "a stopped worker commits nothing that others took over; a long handler works once"
#: Rollouts (kind 1) whose command calls the model, which sleeps. What has no effects, such as the
#: opening of a question, is held no longer than its commit takes.
_HELD: Final = """
SELECT stream, version, claim FROM active
WHERE run_no = $1 AND claim IS NOT NULL AND kind = 1 AND topic = ANY ($2)
"""
_CALLING: Final = (topics.PLAN, topics.EXECUTE, topics.REFLECT)
#: It is stopped again when it held fewer than so many, as it may between two steps.
_ENOUGH: Final = 10
_STOPS: Final = 5
_STEPS: Final = """
SELECT e.claim FROM unnest($2::uuid[], $3::int[]) AS h (stream, version)
JOIN event AS e ON e.run_no = $1 AND e.stream = h.stream AND e.seq = h.version + 1
"""
_LOST: Final = re.compile(r"drained .*?lost=(\d+)")
_COLOURS: Final = re.compile(r"\x1b\[[0-9;]*m")


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """`held` commands that call the model were in the worker's hands when it was stopped; `taken`
    of them others ended meanwhile; `committed` of them it committed afterwards; `lost` is its own
    count of lost claims.
    """

    held: int
    taken: int
    committed: int
    lost: int
    stopped_s: float
    outcome: Outcome


class Long(msgspec.Struct, frozen=True, kw_only=True):
    """One call of `seconds`, a session of `session_s`, members of the group after each change."""

    seconds: float
    session_s: float
    lease_s: float
    members: tuple[int, ...]
    plan_calls: int
    attempts: tuple[int, ...]
    outcome: Outcome


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Stop a worker beyond its leases; then let a call last through two rebalances."""
    seconds, session_s, lease_s = (40.0, 6.0, 4.0) if short else (300.0, 10.0, 30.0)
    # Both mostly wait, each in a cluster of its own.
    stopped, long = await asyncio.gather(
        _stop_one(stack, folder / "stopped", questions=20 if short else 60),
        _long_call(stack, folder / "long", seconds=seconds, session_s=session_s, lease_s=lease_s),
    )
    claims = (*_judge_stopped(stopped), *_judge_long(long))
    return Evidence(figures={"stopped": stopped, "long": long}, claims=claims)


# --- a stopped worker ----------------------------------------------------------------------------


async def _stop_one(stack: Stack, folder: Path, *, questions: int) -> Stopped:
    began = time.monotonic()
    async with cluster(stack, folder, lease_s=3.0) as lab:
        zombie = lab.hire("zombie")
        run = await lab.create_run("stopped", _manifest(questions))
        await lab.ask(run, cities(questions, " [[sleep 2]]"))
        held, stopped_at = await _stopped_with_enough(lab, zombie, run)
        lab.hire("heir")
        await until("others have taken over", lambda: _taken_over(lab, run, held), limit_s=180)
        stopped_s = time.monotonic() - stopped_at
        zombie.signal(signal.SIGCONT)
        await lab.close_run(run)
        await lab.until_ended(run)
        claims = [row["claim"] for row in await _steps(lab, run, held)]
        own = {row["claim"] for row in held}
        outcome = await outcome_of(lab, run, lag=0, seconds=time.monotonic() - began)
        await lab.crew.stop("zombie")
        return Stopped(
            held=len(held),
            taken=sum(claim not in own for claim in claims),
            committed=sum(claim in own for claim in claims),
            lost=_lost(zombie),
            stopped_s=round(stopped_s, 1),
            outcome=outcome,
        )


def _manifest(questions: int) -> Manifest:
    return scripted_manifest(mode="live", deterministic=False, rollouts=1, max_in_flight=questions)


async def _stopped_with_enough(
    lab: Cluster, worker: Member, run: RunView
) -> tuple[list[Any], float]:
    """Stop a worker that sleeps in enough calls; what it held when nothing was under way any more,
    so that it can commit none of it before it goes on, and when it was stopped.
    """
    for _ in range(_STOPS):
        await until("the worker holds enough", lambda: _holds(lab, run), limit_s=120, every_s=0.1)
        stopped_at = time.monotonic()
        await stop_still(lab, worker)
        held = await _held(lab, run)
        if len(held) >= _ENOUGH:
            return held, stopped_at
        worker.signal(signal.SIGCONT)
    raise TimeoutError(f"stopped {_STOPS} times, never with {_ENOUGH} commands in hand")


async def _held(lab: Cluster, run: RunView) -> list[Any]:
    return await lab.desk.rows(_HELD, run.run_no, _CALLING)


async def _holds(lab: Cluster, run: RunView) -> bool:
    return len(await _held(lab, run)) >= _ENOUGH


async def _steps(lab: Cluster, run: RunView, held: list[Any]) -> list[Any]:
    streams, versions = [row["stream"] for row in held], [row["version"] for row in held]
    return await lab.desk.rows(_STEPS, run.run_no, streams, versions)


async def _taken_over(lab: Cluster, run: RunView, held: list[Any]) -> bool:
    return len(await _steps(lab, run, held)) == len(held)


def _lost(member: Member) -> int:
    """Return what a worker that was stopped said of its lost claims, all lanes together."""
    said = _COLOURS.sub("", member.log.read_text(errors="replace"))
    return sum(map(int, _LOST.findall(said)))


def _judge_stopped(stopped: Stopped) -> list[Claim]:
    return [
        Claim(
            f"all {stopped.held} commands that it held were taken over by another",
            _ENOUGH <= stopped.held == stopped.taken,
        ),
        Claim("it committed none of them afterwards", stopped.committed == 0),
        Claim(f"it counted {stopped.lost} of its attempts as lost", stopped.lost > 0),
        Claim(
            "no event under two claims, every question ended exactly once: auditor clean",
            stopped.outcome.whole,
        ),
        Claim("nothing was dead-lettered", stopped.outcome.dead_letters == 0),
    ]


# --- a long call ---------------------------------------------------------------------------------


async def _long_call(
    stack: Stack, folder: Path, *, seconds: float, session_s: float, lease_s: float
) -> Long:
    began = time.monotonic()
    async with cluster(stack, folder, session_timeout_s=session_s, lease_s=lease_s) as lab:
        lab.hire("steady")
        run = await lab.create_run("long", _manifest(1))
        await lab.ask(run, cities(1, f" [[sleep {seconds:g} plan]]"))
        await until("the call is under way", lambda: _called(lab), limit_s=60)
        members = await _rebalance_twice(lab, wait_s=seconds / 8)
        await lab.close_run(run)
        await lab.until_ended(run, limit_s=seconds + 120)
        planned = await lab.desk.rows(
            "SELECT attempt FROM event WHERE run_no = $1 AND type = 'rollout.planned'", run.run_no
        )
        stats = await lab.model.stats()
        outcome = await outcome_of(lab, run, lag=0, seconds=time.monotonic() - began)
    return Long(
        seconds=seconds,
        session_s=session_s,
        lease_s=lease_s,
        members=members,
        plan_calls=stats["tasks"]["plan"],
        attempts=tuple(row["attempt"] for row in planned),
        outcome=outcome,
    )


async def _called(lab: Cluster) -> bool:
    return bool((await lab.model.stats())["tasks"].get("plan"))


async def _rebalance_twice(lab: Cluster, *, wait_s: float) -> tuple[int, ...]:
    """Let a second worker join and leave; the members of the group at each stage."""
    before = await _settled(lab, 1)
    lab.hire("visitor")
    during = await _settled(lab, 2)
    await asyncio.sleep(wait_s)
    await lab.crew.stop("visitor")
    return before, during, await _settled(lab, 1)


async def _settled(lab: Cluster, members: int) -> int:
    async def settled() -> bool:
        return await group_is(lab, topics.PLAN) == ("Stable", members)

    await until(f"the group is stable with {members}", settled, limit_s=60)
    return members


def _judge_long(long: Long) -> list[Claim]:
    return [
        Claim(
            f"a call of {long.seconds:g} s went through two rebalances ({long.members} members) "
            f"with a session of {long.session_s:g} s",
            long.members == (1, 2, 1) and long.outcome.seconds > long.seconds,
        ),
        Claim("its handler committed once, at its first attempt", long.attempts == (1,)),
        Claim("its model was called once", long.plan_calls == 1),
        Claim("the question ended exactly once, auditor clean", long.outcome.whole),
    ]
