"""A deleted topic and a wiped broker delay work; a topic that lags gets nothing twice."""

from pathlib import Path

import pytest

from ops.evidence import core3
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


@pytest.mark.timeout(400)
async def test_wiped_topics_delay_and_lose_nothing(stack: StackThread, tmp_path: Path) -> None:
    """The verdict and the digest are those of peace; what is sent again stays within its bound."""
    evidence = await core3.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)
    assert evidence.ok
