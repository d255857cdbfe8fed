"""Random kills, from a seed: workers, Kafka's Java process and the postmaster, each by kill -9."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from ops.chaos.cluster import Cluster
from ops.chaos.desk import until

__all__ = ["Kill", "kill_at_random"]

#: Half of the kills hit a worker; the rest is shared by Kafka and Postgres.
_TURNS: Final = ("worker", "kafka", "worker", "postgres")
_SOON_S: Final = 0.1
_LONGEST_WAIT_S: Final = 12.0
_BACK_S: Final = 120.0


class Kill(msgspec.Struct, frozen=True, kw_only=True):
    """One kill -9: of what, which process, and how many seconds after the work began."""

    target: str
    pid: int
    at_s: float


async def kill_at_random(
    cluster: Cluster, *, kills: int, seed: int, share: Callable[[], Awaitable[float]]
) -> list[Kill]:
    """Kill so many processes while the work goes on, and tell which.

    They are spread over the work by `share`, how much of it is done (0 to 1), so that each hits
    a cluster at work; one that has waited for 12 s is due anyway. Who is hit, in which order, is a
    function of the seed; whoever is down when its turn comes is hit as soon as it is back.
    Afterwards everything lives on.

    Raises:
        TimeoutError: what was to be hit did not come back.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    began, done = time.monotonic(), list[Kill]()
    for due, target in zip(_dues(chance, kills), _targets(chance, cluster, kills), strict=True):
        await _await(due, share)
        await asyncio.sleep(chance.uniform(0.0, 1.0))
        pid = await _hit(cluster, target)
        done.append(Kill(target=target, pid=pid, at_s=round(time.monotonic() - began, 2)))
    return done


def _dues(chance: random.Random, kills: int) -> list[float]:
    return sorted(chance.uniform(0.02, 0.95) for _ in range(kills))


def _targets(chance: random.Random, cluster: Cluster, kills: int) -> list[str]:
    kinds = [_TURNS[number % len(_TURNS)] for number in range(kills)]
    chance.shuffle(kinds)
    workers = sorted(cluster.crew.members)
    return [chance.choice(workers) if kind == "worker" else kind for kind in kinds]


async def _await(due: float, share: Callable[[], Awaitable[float]]) -> None:
    async def enough() -> bool:
        return await share() >= due

    with contextlib.suppress(TimeoutError):
        await until("enough is done", enough, limit_s=_LONGEST_WAIT_S, every_s=_SOON_S)


async def _hit(cluster: Cluster, target: str) -> int:
    """Kill a target, once it lives; its pid."""
    pid = 0

    async def struck() -> bool:
        nonlocal pid
        member = cluster.crew.members.get(target)
        pid = member.signal(signal.SIGKILL) if member else cluster.stack.kill(target)
        return pid > 0

    await until(f"{target} is back", struck, limit_s=_BACK_S, every_s=_SOON_S)
    return pid
