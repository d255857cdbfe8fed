"""Killed trainers and planners change no version: real Kafka and Postgres, scripted models."""

import asyncio
import signal
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from consumers.stages import STAGES
from mia_events.steps import RunView
from ops.audit import Report
from ops.chaos.cluster import Cluster, cluster, scripted_manifest
from ops.chaos.desk import until
from ops.chaos.questions import cities
from ops.replay import replay
from ops.replay.jobs import jobs_of
from ops.worker import EVERYTHING, TRAIN
from storage.postgres.replay import read_recording
from tests.support.fake_engine import config_of
from tests.support.stack import StackThread
from tests.support.trials import OnThread

_QUESTIONS = 8
_VERSIONS = (
    "SELECT name, parent, batch, state, encode(adapter_sha, 'hex') AS adapter,"
    " encode(optimizer_sha, 'hex') AS optimizer FROM policy WHERE run_no = $1 ORDER BY number"
)
_TRAINING = "SELECT count(*) FROM active WHERE run_no = $1 AND kind = 4 AND status = 'training'"
_USED = "SELECT q.policy, count(*) FROM question AS q WHERE q.run_no = $1 GROUP BY q.policy"


async def _run(at: Cluster, name: str) -> RunView:
    manifest = scripted_manifest(
        rollouts=3, batch_size=2, lag=1, train=True, hyper={"row_tokens": 4_096}
    )
    run = await at.create_run(name, manifest)
    await at.ask(run, cities(_QUESTIONS))
    await at.until_accepted(run, _QUESTIONS)
    await at.close_run(run)
    return run


async def _rows(at: Cluster, query: str, run: RunView) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(at.audit_dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query, run.run_no)]
    finally:
        await connection.close()


async def _kill_while_training(at: Cluster, run: RunView, *names: str) -> None:
    """Kill workers once an update is being made, twice."""
    for _ in range(2):

        async def training() -> bool:
            return bool(await at.desk.value(_TRAINING, run.run_no))

        await until("an update is being made", training, limit_s=120)
        await asyncio.sleep(0.7)
        for name in names:
            at.crew.members[name].signal(signal.SIGKILL)
        await asyncio.sleep(2.0)


async def _audited(at: Cluster, run: RunView) -> Report:
    async def acknowledged() -> bool:
        query = "SELECT count(*) FROM outbox WHERE run_no = $1"
        return bool(await at.desk.value(query, run.run_no) == 0)

    await until("all facts are acknowledged", acknowledged, limit_s=60)
    return await at.audited(run)


@pytest.mark.timeout(600)
async def test_a_run_that_trains_makes_the_same_versions_whatever_dies(
    stack: StackThread, tmp_path: Path
) -> None:
    """Equal SHAs of weights and optimizer, a clean audit, every job made again from the ledger."""
    async with cluster(OnThread(stack), tmp_path, trainer=config_of(tmp_path)) as at:
        at.hire("first", (*EVERYTHING, TRAIN))
        at.hire("second", (*EVERYTHING, TRAIN))
        calm = await _run(at, "calm")
        await at.until_ended(calm, limit_s=180)
        versions = await _rows(at, _VERSIONS, calm)
        assert len(versions) >= 2, versions
        used = dict(await _rows(at, _USED, calm))
        assert {"base", versions[0][0]} <= set(used), used

        hit = await _run(at, "hit")
        await _kill_while_training(at, hit, "first", "second")
        await at.until_ended(hit, limit_s=240)
        assert versions == await _rows(at, _VERSIONS, hit)
        assert used == dict(await _rows(at, _USED, hit))
        for run in (calm, hit):
            report = await _audited(at, run)
            assert {} == report.counts, report.faults
            recording = await read_recording(at.audit_dsn, run.name)
            made = jobs_of(recording, STAGES)
            assert [name for name, *_ in versions] == [one.job.policy for one in made]
            assert all(one.same for one in made)
            assert () == replay(recording, STAGES).differences
