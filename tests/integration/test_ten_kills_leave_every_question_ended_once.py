"""Ten random kill -9 of workers, Kafka and Postgres change nothing."""

from pathlib import Path

import pytest

from ops.evidence import core2
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


@pytest.mark.timeout(400)
async def test_ten_kills_leave_every_question_ended_once(
    stack: StackThread, tmp_path: Path
) -> None:
    """The digest is that of one worker in peace; no call with a recorded result is repeated."""
    evidence = await core2.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)
    assert evidence.ok
