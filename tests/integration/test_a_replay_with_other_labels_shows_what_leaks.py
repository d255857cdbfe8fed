"""Labels reach nothing but the judge, and what would break that is found."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg

from consumers.stages import STAGES
from ops.chaos.cluster import cluster
from ops.chaos.trial import Load, run_trial
from ops.evidence import main3
from ops.replay import replay
from storage.postgres import archive as leaving
from storage.postgres.replay import read_recording
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


async def test_only_a_planted_leak_differs(stack: StackThread, tmp_path: Path) -> None:
    """Handlers over recorded replies come to the recorded requests and events, byte for byte."""
    evidence = await main3.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)


async def test_steps_over_an_erased_payload_are_counted_and_not_taken(
    stack: StackThread, tmp_path: Path
) -> None:
    """A question's own words are gone: its steps are skipped, the others come out as they were."""
    async with cluster(OnThread(stack), tmp_path) as lab:
        lab.hire("worker")
        await run_trial(lab, "erased", Load(questions=4, rollouts=1, batch_size=2))
        whole = replay(await read_recording(lab.audit_dsn, "erased"), STAGES)
        database = urlsplit(lab.audit_dsn).path
        owner = await asyncpg.connect(urlsplit(stack.admin_dsn)._replace(path=database).geturl())
        asked = await owner.fetchval("SELECT id FROM event WHERE type = 'question.asked' LIMIT 1")
        assert await leaving.erase(owner, str(asked))
        await owner.close()
        left = replay(await read_recording(lab.audit_dsn, "erased"), STAGES)
    assert (True, 0) == (whole.same, whole.skipped)
    assert (True, True) == (left.same, left.skipped > 0), left.differences
    assert whole.steps == left.steps + left.skipped
