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
_WEIGHTS: Final = {"worker": 2, "kafka": 1, "postgres": 1}
_SOON_S: Final = 0.1
_LONGEST_WAIT_S: Final = 12.0


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
    a cluster at work; one that has waited for 12 s is due anyway. Afterwards everything lives on.
    """
    chance = random.Random(seed)  # noqa: S311 - no secret
    began, done = time.monotonic(), list[Kill]()
    dues = sorted(chance.uniform(0.02, 0.95) for _ in range(kills))
    for due in dues:
        await _await(due, share)
        await asyncio.sleep(chance.uniform(0.0, 1.0))
        done.append(await _kill_one(cluster, chance, began))
    return done


async def _await(due: float, share: Callable[[], Awaitable[float]]) -> None:
    async def enough() -> bool:
        return await share() >= due

    with contextlib.suppress(TimeoutError):
        await until("enough is done", enough, limit_s=_LONGEST_WAIT_S, every_s=_SOON_S)


async def _kill_one(cluster: Cluster, chance: random.Random, began: float) -> Kill:
    """Kill what chance names; when that is down at the moment, what it names next."""
    while True:
        target = chance.choices(list(_WEIGHTS), list(_WEIGHTS.values()))[0]
        if target == "worker":
            name = chance.choice(sorted(cluster.crew.members))
            target, pid = name, cluster.crew.members[name].signal(signal.SIGKILL)
        else:
            pid = cluster.stack.kill(target)
        if pid:
            return Kill(target=target, pid=pid, at_s=round(time.monotonic() - began, 2))
        await asyncio.sleep(_SOON_S)
