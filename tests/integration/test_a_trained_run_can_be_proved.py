"""What was trained can be audited and made again, by the roles that do each in production."""

from uuid import UUID

import asyncpg
import pytest

from consumers.stages import STAGES
from ops.audit import audit
from ops.replay import replay
from ops.replay.jobs import jobs_of
from storage.ports import Emitted
from storage.postgres.labels import PostgresLabels
from storage.postgres.ledger import PostgresLedger
from storage.postgres.memory import PostgresMemory
from storage.postgres.migrate import migrate
from storage.postgres.policies import PostgresPolicies
from storage.postgres.replay import read_recording
from storage.postgres.roles import ROLES, ensure_roles, role_dsn
from storage.postgres.runs import PostgresRuns
from tests.contract.test_a_run_that_trains import trained
from tests.contract.workbench import Workbench
from tests.support.ports import Logged, Ports

_PASSWORD = "a-password-of-this-test"
_PRIVILEGES = (
    "SELECT table_name, privilege_type FROM information_schema.role_table_grants"
    " WHERE grantee = $1 AND table_schema = 'public'"
)


class _Labels:
    """Sealed by admission, read by the judge."""

    def __init__(self, admit: PostgresLedger, judge: PostgresLedger) -> None:
        self._admit, self._judge = PostgresLabels(admit.pool), PostgresLabels(judge.pool)

    async def seal(
        self, run_no: int, question: UUID, value: str, *, source: str
    ) -> tuple[Emitted, ...]:
        return await self._admit.seal(run_no, question, value, source=source)

    async def label(self, question: UUID) -> str | None:
        return await self._judge.label(question)

    async def waited(self, run_no: int, event_id: UUID) -> float:
        return await self._judge.waited(run_no, event_id)


async def _nothing(_: UUID) -> list[Logged]:
    return []


@pytest.mark.parametrize("mode", ["batch", "live"])
async def test_a_trained_run_can_be_proved(database: str, mode: str) -> None:
    """No fault, no difference in a replay, and every job again byte for byte."""
    owner = await asyncpg.connect(database)
    await ensure_roles(owner, dict.fromkeys(ROLES, _PASSWORD))
    await migrate(owner)
    judge = await PostgresLedger.open(
        role_dsn(database, "mia_judge", _PASSWORD), sealed=True, size=2
    )
    admit = await PostgresLedger.open(role_dsn(database, "mia_admit", _PASSWORD), size=2)
    bench = Workbench(
        Ports(
            name="roles", ledger=judge, memory=PostgresMemory(judge.pool),
            labels=_Labels(admit, judge), policies=PostgresPolicies(judge.pool),
            runs=PostgresRuns(admit.pool), events=_nothing,
        )
    )  # fmt: skip
    run, jobs = await trained(bench, mode)
    name = (await bench.ledger.run(run)).name
    auditor = role_dsn(database, "mia_audit", _PASSWORD)
    report = await audit(auditor, None, name, closed=True)
    recording = await read_recording(auditor, name)
    grants = [set(await owner.fetch(_PRIVILEGES, role)) for role in ("mia_judge", "mia_worker")]
    for connection in (judge, admit, owner):
        await connection.close()
    assert ({}, ()) == (report.counts, report.faults)
    assert () == replay(recording, STAGES).differences
    assert [(job, True) for job in jobs] == [
        (made.job, made.same) for made in jobs_of(recording, STAGES)
    ]
    assert grants[0] == grants[1], "who judges and who trains may write the same tables"
