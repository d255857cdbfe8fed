"""SIGSTOP beyond the lease, and a call that is longer than session and lease."""

from pathlib import Path

import pytest

from ops.evidence import core4
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


@pytest.mark.timeout(400)
async def test_a_stopped_worker_commits_nothing_that_others_took_over(
    stack: StackThread, tmp_path: Path
) -> None:
    """The stopped worker loses its claims; the long call is made once, through two rebalances."""
    evidence = await core4.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)
    assert evidence.ok
