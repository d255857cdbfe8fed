"""Malformed events of every kind, and questions that carry their answer."""

from pathlib import Path

import pytest

from ops.evidence import core6
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


@pytest.mark.timeout(400)
async def test_malformed_events_are_refused_and_nothing_else_is_lost(
    stack: StackThread, tmp_path: Path
) -> None:
    """Each is one dead letter that says why; carried answers can be read nowhere."""
    evidence = await core6.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)
    assert evidence.ok
