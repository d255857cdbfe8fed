"""What kills are judged by: two runs of the same questions compare, whatever their ids are."""

from typing import Any

import pytest

from ops.chaos.desk import Desk
from ops.chaos.learner import Learned, learned
from ops.chaos.trial import Outcome
from ops.evidence.forged import FORGERIES, forge
from storage.postgres.replay import read_recording
from tests.contract.test_a_run_that_trains import trained
from tests.contract.workbench import Workbench
from tests.support.ports import make_postgres_ports


async def _run(dsn: str) -> tuple[str, int]:
    async with make_postgres_ports(dsn) as ports:
        bench = Workbench(ports)
        run_no, jobs = await trained(bench, "batch")
        return (await bench.ledger.run(run_no)).name, len(jobs)


async def _learned(dsn: str, run: str, outcome: Outcome) -> Learned:
    return await learned(Desk(dsn), await read_recording(dsn, run), outcome)


@pytest.fixture
def outcome() -> Outcome:
    """Stand in for an audit: nothing here looks at it."""
    fields: dict[str, Any] = dict.fromkeys(Outcome.__struct_fields__)
    return Outcome(**fields)


async def test_runs_of_the_same_questions_are_the_same(prepared: str, outcome: Outcome) -> None:
    """Versions, groups by position, rows and their digests; and each step was taken once."""
    (one, versions), (other, _) = await _run(prepared), await _run(prepared)
    first, second = [await _learned(prepared, run, outcome) for run in (one, other)]
    assert versions == len(first.versions) >= 2
    assert first.used == second.used
    assert [(v.name, v.groups, v.rows, v.rollouts_sha256) for v in first.versions] == [
        (v.name, v.groups, v.rows, v.rollouts_sha256) for v in second.versions
    ]
    assert len({version.rollouts_sha256 for version in first.versions}) == versions
    assert (True, True) == (first.once, first.made_again)
    assert {1} == set(first.attempts.values())


async def test_another_reward_is_another_digest(prepared: str, outcome: Outcome) -> None:
    """Of the version that was made from it; and the ledger leads to its job no more."""
    run, _ = await _run(prepared)
    before = await _learned(prepared, run, outcome)
    await forge(prepared, run, "planner@v1", FORGERIES["one byte of a planner's reply"])
    after = await _learned(prepared, run, outcome)
    apart = [
        version.name
        for version, then in zip(after.versions, before.versions, strict=True)
        if version != then
    ]
    assert ["planner@v1"] == apart
    assert not after.made_again
