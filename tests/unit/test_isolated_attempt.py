"""A process for one command says how its attempt ended; what it needs may be away."""

import msgspec

from consumers.runner.isolate import Verdict
from mia_events.lifecycle import Kind
from ops.embedded.state import free_port
from ops.worker import WorkerConfig, isolated
from storage.ports import Claimed
from tests.support.drive import RUN, rollout


async def test_a_database_that_does_not_answer_is_no_death_of_the_command() -> None:
    """It is tried again, and nothing counts towards a dead letter."""
    port = free_port(set())
    config = WorkerConfig(
        kafka={"bootstrap_servers": f"127.0.0.1:{port}"},
        dsns={"mia_worker": f"postgresql://mia_worker@127.0.0.1:{port}/mia"},
        endpoints={},
        artifacts="",
    )
    claimed = Claimed(
        stream=rollout(), version=1, claim=1, kind=Kind.ROLLOUT, run_no=1, status="planning",
        topic="mia.plan", event_id=RUN, parent=None, attempt=3, failures=0, isolated_deaths=0,
        history=(),
    )  # fmt: skip
    verdict = msgspec.json.decode(await isolated(config, claimed), type=Verdict)
    assert "late" == verdict.outcome
    assert 0 < verdict.delay_s
