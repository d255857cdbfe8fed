"""Every question ends exactly once, and several workers come to the digest of one."""

from pathlib import Path

from ops.evidence import core1
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


async def test_several_workers_come_to_what_one_comes_to(
    stack: StackThread, tmp_path: Path
) -> None:
    """Real Kafka and Postgres, lag 1: equal digests, the auditor clean, no model call repeated."""
    evidence = await core1.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)
    assert evidence.ok
