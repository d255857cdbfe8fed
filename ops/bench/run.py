"""The benchmark's scenarios over one embedded stack."""

# ruff: noqa: ASYNC110 - the benchmark looks at counters from outside, without a hook in the runner
from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
import uuid
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec

from consumers import prompts
from consumers.plan.preempt import dead_letter_step
from consumers.runner.kafka_log import KafkaLog
from consumers.runner.worker import Lane, WorkerOptions
from consumers.stages import STAGES
from mia_events import topics
from mia_events.steps import Manifest, ModelChoice
from ops.bench.chain import STEPS, Seeded, StubPerformer
from ops.bench.measure import cpu, step_times, summary_ms, synced_commit_s
from ops.embedded.stack import EmbeddedStack
from ops.settings import EmbeddedSettings
from storage.postgres.ledger import PostgresLedger
from storage.postgres.migrate import migrate
from storage.postgres.roles import ROLES, ensure_roles, role_dsn
from storage.postgres.runs import PostgresRuns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from consumers.runner.log import Record
    from mia_events.steps import RunView

_STAGES = (topics.EXECUTE, topics.TOOL_CALL, topics.REFLECT)
_PASSWORD = uuid.uuid4().hex


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What to run: `chains` rollouts, `slots` at once, a stub that takes exp(`mean_s`) seconds."""

    name: str
    chains: int
    slots: int
    mean_s: float = 0.0
    local_dispatch: bool = True
    one_by_one: bool = False


class Bench:
    """A stack with a migrated database, and runs on it."""

    def __init__(self, stack: EmbeddedStack, admin: asyncpg.Connection, dsn: str) -> None:
        self._stack = stack
        self._dsn = dsn
        self.admin = admin

    async def run(self, scenario: Scenario) -> dict[str, Any]:
        """Run one scenario; its figures."""
        async with self._lane(scenario) as (lane, run, log):
            if scenario.one_by_one:
                return await self._one_by_one(scenario, lane, run, log)
            return await self._flood(scenario, lane, run, log)

    @asynccontextmanager
    async def _lane(self, scenario: Scenario) -> AsyncIterator[tuple[Lane, RunView, KafkaLog]]:
        admit = await PostgresLedger.open(role_dsn(self._dsn, "mia_admit", _PASSWORD))
        ledger = await PostgresLedger.open(role_dsn(self._dsn, "mia_worker", _PASSWORD))
        log = KafkaLog(
            {"bootstrap_servers": self._stack.bootstrap_servers},
            prefix=f"bench{uuid.uuid4().hex[:6]}.",
        )
        name = f"{scenario.name}-{uuid.uuid4().hex[:6]}"
        await PostgresRuns(admit.pool).create(name, _manifest())
        run, _ = await ledger.run_named(name)
        await log.ensure_topics(topics.ALL, partitions=6)
        lane = Lane(
            ledger=ledger,
            log=log,
            worker_no=await ledger.new_worker(name),
            stages={topic: STAGES[topic] for topic in _STAGES},
            performer=StubPerformer(mean_s=scenario.mean_s),
            options=WorkerOptions(
                slots=scenario.slots, lease_s=30, local_dispatch=scenario.local_dispatch
            ),
            dead_letter_step=dead_letter_step,
            malformed=_no_malformed,
        )
        tasks = [asyncio.ensure_future(part) for part in lane.background()]
        try:
            while not all(intake.ready for intake in lane.intakes.values()):
                await asyncio.sleep(0.05)
            yield lane, run, log
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for intake in lane.intakes.values():
                await intake.close()
            await log.close()
            await ledger.close()
            await admit.close()

    async def _one_by_one(
        self, scenario: Scenario, lane: Lane, run: RunView, log: KafkaLog
    ) -> dict[str, Any]:
        seeded = Seeded(run, scenario.chains)
        await seeded.write(self.admin)
        for stream, version in seeded.commands:
            before = lane.dispatcher.steps
            await _send(log, stream, version)
            while lane.dispatcher.steps < before + STEPS:
                await asyncio.sleep(0.005)
        warm = [stream for stream, _ in seeded.commands[scenario.chains // 5 :]]
        times = await step_times(self.admin, run.run_no, warm)
        return {"step_ms": summary_ms(times), "steps": len(times)}

    async def _flood(
        self, scenario: Scenario, lane: Lane, run: RunView, log: KafkaLog
    ) -> dict[str, Any]:
        seeded = Seeded(run, scenario.chains)
        await seeded.write(self.admin)
        pids = self._stack.pid("postgres"), self._stack.pid("kafka")
        for stream, version in seeded.commands:
            await _send(log, stream, version)
        goal = scenario.chains * STEPS
        warm, cool = goal // 6, goal - goal // 6
        while lane.dispatcher.steps < warm:
            await asyncio.sleep(0.005)
        first, cpu_first, started = lane.dispatcher.steps, cpu(*pids), time.perf_counter()
        while lane.dispatcher.steps < cool:
            await asyncio.sleep(0.005)
        steps = lane.dispatcher.steps - first
        elapsed, used = time.perf_counter() - started, cpu(*pids).since(cpu_first)
        while lane.dispatcher.steps < goal:
            await asyncio.sleep(0.02)
        return {
            "steps": steps,
            "steps_per_s": round(steps / elapsed),
            "steps_per_cpu_s": round(steps / used.total),
            "cpu_ms_per_step": {
                "worker": round(used.worker / steps * 1e3, 4),
                "postgres": round(used.postgres / steps * 1e3, 4),
                "kafka": round(used.kafka / steps * 1e3, 4),
                "total": round(used.total / steps * 1e3, 4),
            },
            "units_per_commit": round(lane.committer.units / max(1, lane.committer.commits), 1),
        }


async def _send(log: KafkaLog, stream: uuid.UUID, version: int) -> None:
    """A command as the publisher would send it, as far as the runner reads it."""
    value = msgspec.json.encode({"stream": stream, "seq": version})
    await log.send(topics.EXECUTE, key=str(stream).encode(), value=value)


async def _no_malformed(record: Record, reason: str) -> None:
    message = f"a record of the benchmark is malformed: {reason} ({record.topic})"
    raise ValueError(message)


def _manifest() -> Manifest:
    roles = {
        role: ModelChoice(model="stub")
        for role in ("planner", "executor", "judge", "manager", "router", "embedder")
    }
    return Manifest(prompts=prompts.load(), roles=roles, max_turns=8)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    """A stack in a temporary folder, removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mia-bench-"))
    settings = EmbeddedSettings(postgres_shared_buffers_mb=512, postgres_wal_mb=1024)
    try:
        async with EmbeddedStack(folder, settings) as stack:
            admin = await asyncpg.connect(stack.admin_dsn)
            await ensure_roles(admin, dict.fromkeys(ROLES, _PASSWORD))
            await migrate(admin)
            try:
                yield Bench(stack, admin, stack.admin_dsn)
            finally:
                await admin.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def floor_ms(running: Bench) -> float:
    """Milliseconds of one synced commit of 1 KB."""
    return round(await synced_commit_s(running.admin) * 1e3, 3)


__all__ = ["Bench", "Scenario", "bench", "floor_ms"]
