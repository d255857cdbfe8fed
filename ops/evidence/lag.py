"""Topics that lag: nobody consumes, then somebody slow, then somebody who was stopped."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import msgspec

from mia_events import topics
from mia_events.steps import RunView
from ops.chaos.broker import records_of, sent_again
from ops.chaos.cluster import Cluster, Stack, cluster, scripted_manifest
from ops.chaos.crew import Member
from ops.chaos.desk import until
from ops.chaos.questions import cities
from ops.chaos.stops import stop_still
from ops.chaos.trial import Outcome, outcome_of

__all__ = ["Lagging", "lag_trial"]

_GRACE_S: Final = 3.0
_SWEEP_S: Final = 0.5
_HELD: Final = "SELECT count(*) FROM active WHERE run_no = $1 AND claim IS NOT NULL"
#: Commands that no worker has taken since they were appended.
_UNTOUCHED: Final = """
SELECT pending FROM active
WHERE run_no = $1 AND topic IS NOT NULL AND claim IS NULL AND attempt = 0 AND due_at IS NULL
"""
#: Those of them whose place was noted before a sweeper could take them for unsent, or so long ago
#: that whatever a sweeper sent before is in the topic too.
_MARKED: Final = """
SELECT a.pending, a.sent_partition, a.sent_offset FROM active AS a
JOIN event AS e ON e.run_no = a.run_no AND e.stream = a.stream AND e.seq = a.version
WHERE a.run_no = $1 AND a.topic IS NOT NULL AND a.claim IS NULL AND a.attempt = 0
  AND a.due_at IS NULL AND a.sent_offset IS NOT NULL
  AND (a.updated_at < e.at + $2::interval OR a.updated_at < clock_timestamp() - $2)
"""
#: What a sweeper may send: commands in a worker's hands, and those without a place.
_OPEN: Final = """
SELECT pending, claim IS NOT NULL AS held FROM active
WHERE run_no = $1 AND topic IS NOT NULL AND (claim IS NOT NULL OR sent_offset IS NULL)
"""


class Lagging(msgspec.Struct, frozen=True, kw_only=True):
    """What lay in the topics and what was sent again, phase by phase.

    Counted from the topics themselves, as commands. In the first two phases it is about those whose
    place was noted in time and that no worker has taken since: none of them may get another record
    (`waiting` and `left_by_slow` are such at the phase's end). In the third a command whose lease
    ran out (`held`) is sent again, since its record has been taken from the topic; so is one whose
    place its publisher did not note down any more when it was stopped (`unmarked`). `astray` of
    `again_stopped` were neither; `left_by_stopped` commands lay in their topics, marked, and must
    not be among them.
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
    left_by_stopped: int
    again_stopped: int
    astray: int
    again_in_all: Mapping[str, int]
    outcome: Outcome


@dataclass
class _Watch:
    """Commands that lie marked in their topics: no sweeper may send one as long as it is untouched.

    `marked`: the places of all that were ever seen so; `left`: those of them that were untouched at
    the last look, after at least one more; `again`: those that got a record behind their place.
    """

    lab: Cluster
    run: RunView
    marked: dict[UUID, tuple[int, int]] = field(default_factory=dict)
    left: set[UUID] = field(default_factory=set)
    again: set[UUID] = field(default_factory=set)

    async def look(self) -> None:
        """Compare the topics with the marks of earlier looks, then take in new marks."""
        records = await records_of(self.lab, *topics.COMMANDS)
        # Read after the topics: what is untouched now was so when they were read.
        rows = await self.lab.desk.rows(_UNTOUCHED, self.run.run_no)
        self.left = {row["pending"] for row in rows} & self.marked.keys()
        self.again |= {
            record.wire.id
            for found in records.values()
            for record in found
            if record.wire is not None and record.wire.id in self.left
            if self._behind(record.wire.id, record.partition, record.offset)
        }
        await self.mark()

    async def mark(self) -> None:
        """Take in what is marked by now; the first place stays."""
        grace = timedelta(seconds=_GRACE_S)
        for row in await self.lab.desk.rows(_MARKED, self.run.run_no, grace):
            self.marked.setdefault(row["pending"], (row["sent_partition"], row["sent_offset"]))

    def _behind(self, command: UUID, partition: int, offset: int) -> bool:
        place = self.marked[command]
        return partition != place[0] or offset > place[1]

    async def go_on(self, seconds: float) -> None:
        """Look now and then, for so long at least."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            await asyncio.sleep(1.0)
            await self.look()


class _Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """What a stopped worker left, and what was sent again meanwhile."""

    held: int
    unmarked: int
    left: int
    again: int
    astray: int


async def lag_trial(stack: Stack, folder: Path, *, short: bool) -> Lagging:
    """Let a run lag in three ways, then finish it."""
    count, phase_s = (30, 8.0) if short else (200, 30.0)
    settings: dict[str, Any] = {"grace_s": _GRACE_S, "sweep_every_s": _SWEEP_S, "lease_s": 3.0}
    async with cluster(stack, folder, **settings) as lab:
        run, began = await _fill(lab, count)
        idle = await _idle(lab, run, count, phase_s)
        slow, worked = await _slow(lab, run, phase_s)
        stopped = await _stop(lab, run, slow, phase_s)
        outcome = await _finish(lab, run, began)
        in_all = await sent_again(lab)
    return Lagging(
        waiting=len(idle.left),
        idle_s=phase_s,
        sweeps=2 * int(phase_s / (_SWEEP_S * 1.3)),
        again_idle=len(idle.again),
        left_by_slow=len(worked.left),
        slow_s=phase_s,
        again_slow=len(worked.again),
        held=stopped.held,
        unmarked=stopped.unmarked,
        left_by_stopped=stopped.left,
        again_stopped=stopped.again,
        astray=stopped.astray,
        again_in_all=in_all,
        outcome=outcome,
    )


async def _idle(lab: Cluster, run: RunView, count: int, phase_s: float) -> _Watch:
    """Let all commands lie in their topic with nobody to take them."""
    watch = _Watch(lab, run)

    async def all_marked() -> bool:
        await watch.mark()
        return len(watch.marked) >= count

    await until(f"{count} commands are marked", all_marked, limit_s=60)
    await watch.go_on(phase_s)
    return watch


async def _slow(lab: Cluster, run: RunView, phase_s: float) -> tuple[Member, _Watch]:
    """Let somebody slow work on them."""
    watch = _Watch(lab, run)
    slow = lab.hire("slow", _STAGES, slots=4, local_dispatch=False)
    await until("the slow worker works", lambda: _works(lab, run), limit_s=60, every_s=0.1)
    await watch.go_on(phase_s)
    return slow, watch


async def _stop(lab: Cluster, run: RunView, slow: Member, phase_s: float) -> _Stopped:
    """Stop the slow worker, and see what is sent again meanwhile."""
    held: set[UUID] = set()
    unmarked: set[UUID] = set()

    async def look() -> None:
        for row in await lab.desk.rows(_OPEN, run.run_no):
            (held if row["held"] else unmarked).add(row["pending"])

    await stop_still(lab, slow, look)
    before = await _records(lab)
    allowed = held | unmarked
    rows = await lab.desk.rows(_UNTOUCHED, run.run_no)
    left = {row["pending"] for row in rows} - allowed
    await asyncio.sleep(phase_s)
    again = {id_ for id_, count in (await _records(lab)).items() if count > max(1, before[id_])}
    slow.signal(signal.SIGCONT)
    return _Stopped(
        held=len(held),
        unmarked=len(unmarked - held),
        left=len(left),
        again=len(again),
        astray=len(again - allowed),
    )


async def _records(lab: Cluster) -> Counter[UUID]:
    """Count the records of each command."""
    found = await records_of(lab, *topics.COMMANDS)
    return Counter(
        record.wire.id
        for records in found.values()
        for record in records
        if record.wire is not None
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


async def _finish(lab: Cluster, run: RunView, began: float) -> Outcome:
    lab.hire("fast", _STAGES, slots=64)
    await lab.close_run(run)
    await lab.until_ended(run)
    return await outcome_of(lab, run, lag=0, seconds=time.monotonic() - began)
