"""Labels reach nothing but the judge, and what would break that is found."""

from pathlib import Path

from ops.evidence import main3
from tests.support.stack import StackThread
from tests.support.trials import OnThread, failed_claims


async def test_only_a_planted_leak_differs(stack: StackThread, tmp_path: Path) -> None:
    """Handlers over recorded replies come to the recorded requests and events, byte for byte."""
    evidence = await main3.evidence(OnThread(stack), tmp_path, short=True)
    assert [] == failed_claims(evidence, tmp_path)
