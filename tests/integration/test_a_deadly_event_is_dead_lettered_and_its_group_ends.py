"""An event whose handler ends its process."""

from pathlib import Path

import pytest

from ops.evidence import core5
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


@pytest.mark.timeout(400)
async def test_a_deadly_event_is_dead_lettered_and_its_group_ends(
    stack: StackThread, tmp_path: Path
) -> None:
    """It is dead-lettered after the configured attempts; innocent events are spared."""
    evidence = await core5.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)
    assert evidence.ok
