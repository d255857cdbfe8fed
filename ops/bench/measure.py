"""How it is measured: wall time per step from the ledger's own times, CPU time per process
group.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import msgspec
import psutil

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg


class Cpu(msgspec.Struct, frozen=True):
    """CPU seconds of this process, of Postgres and of Kafka since each began."""

    worker: float
    postgres: float
    kafka: float

    def since(self, earlier: Cpu) -> Cpu:
        """The difference."""
        return Cpu(
            self.worker - earlier.worker,
            self.postgres - earlier.postgres,
            self.kafka - earlier.kafka,
        )

    @property
    def total(self) -> float:
        """All three together."""
        return self.worker + self.postgres + self.kafka


def cpu(postmaster: int, broker: int) -> Cpu:
    """Read the clocks. Backends that have ended since count with the postmaster's children."""
    return Cpu(time.process_time(), _tree(postmaster), _own(broker))


def _own(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def _tree(pid: int) -> float:
    parent = psutil.Process(pid)
    times = parent.cpu_times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in parent.children():
        total += _own(child.pid)
    return float(total)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def summary_ms(seconds: Sequence[float]) -> dict[str, float]:
    """p50, p99 and mean, in milliseconds."""
    return {
        "p50": round(percentile(seconds, 0.5) * 1e3, 3),
        "p99": round(percentile(seconds, 0.99) * 1e3, 3),
        "mean": round(statistics.fmean(seconds) * 1e3, 3),
    }


async def step_times(
    connection: asyncpg.Connection, run_no: int, streams: Sequence[UUID]
) -> list[float]:
    """Seconds between consecutive steps of each stream, by the times of their events."""
    rows = await connection.fetch(
        "SELECT extract(epoch FROM at - lag(at) OVER (PARTITION BY stream ORDER BY seq))::float8 "
        "AS s FROM event WHERE run_no = $1 AND stream = ANY ($2) AND seq >= 4",
        run_no,
        list(streams),
    )
    return [row["s"] for row in rows if row["s"] is not None]


async def synced_commit_s(connection: asyncpg.Connection, *, rounds: int = 200) -> float:
    """Median seconds of one synced commit of 1 KB: the floor under a durable step."""
    await connection.execute("CREATE TABLE IF NOT EXISTS floor (at timestamptz, pad bytea)")
    pad, times = b"x" * 1024, []
    for _ in range(rounds):
        started = time.perf_counter()
        await connection.execute("INSERT INTO floor VALUES (now(), $1)", pad)
        times.append(time.perf_counter() - started)
    return statistics.median(times)


__all__ = ["Cpu", "cpu", "percentile", "step_times", "summary_ms", "synced_commit_s"]
