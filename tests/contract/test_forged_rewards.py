"""A reward that is changed in the ledger changes the job of its version, and of no other."""

import pytest

from consumers.stages import STAGES
from ops.errors import Refused
from ops.evidence.forged import FORGERIES, forge
from ops.replay.jobs import jobs_of
from storage.postgres.replay import read_recording
from tests.contract.test_a_run_that_trains import trained
from tests.contract.workbench import Workbench
from tests.support.ports import make_postgres_ports


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_changed_reward_shows_at_its_version_alone(prepared: str, name: str) -> None:
    """By another job, or by none where what was changed cannot be read any more."""
    async with make_postgres_ports(prepared) as ports:
        bench = Workbench(ports)
        run_no, jobs = await trained(bench, "batch")
        run = (await bench.ledger.run(run_no)).name
    versions = [job.policy for job in jobs]
    assert 2 <= len(versions)
    told = await forge(prepared, run, versions[1], FORGERIES[name])
    assert FORGERIES[name].bytes_changed == told["bytes"]
    made = {
        one.job.policy: one.same for one in jobs_of(await read_recording(prepared, run), STAGES)
    }
    assert [versions[1]] == [version for version in versions if not made.get(version)]
    with pytest.raises(Refused, match="nothing"):
        await forge(prepared, run, "planner@v99", FORGERIES[name])
