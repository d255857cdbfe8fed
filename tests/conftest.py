"""What every tier shares: tier markers by folder, hypothesis profiles, and free ports."""

import logging
import os
from pathlib import Path

import pytest
from hypothesis import settings

from ops.embedded import state

__all__ = ["free_port"]

_TESTS = Path(__file__).parent
_TIERS = ("unit", "contract", "simulation", "integration", "engines", "browser")

# Times say nothing about correctness on a shared machine; examples repeat unless asked otherwise.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("search", deadline=None, max_examples=2_000)
settings.load_profile(os.environ.get("MIA_HYPOTHESIS_PROFILE", "repeatable"))

# A broker that starts or was killed makes aiokafka say so hundreds of times, which buries the
# words of the test that failed.
logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with the tier whose folder it lies in."""
    for item in items:
        tier = item.path.relative_to(_TESTS).parts[0]
        if tier not in _TIERS:
            message = f"{item.nodeid} lies in no tier; move it into one of {', '.join(_TIERS)}"
            raise pytest.UsageError(message)
        item.add_marker(tier)


@pytest.fixture
def free_port() -> int:
    """A loopback port that nobody listened on a moment ago."""
    return state.free_port(set())
