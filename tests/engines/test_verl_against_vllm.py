"""The trainer's log-probabilities and the sampler's, for the same tokens of the same model."""

import pytest

from ops.environments import find_serve_environment, serve_folder
from ops.evidence.learn7 import evidence
from tests.support import updates

pytestmark = pytest.mark.timeout(1_800)


async def test_what_vllm_sampled_is_as_likely_to_verl() -> None:
    """Of the base model, and of the version that an update made of it."""
    updates.python()
    if find_serve_environment(serve_folder()) is None:
        pytest.skip(f"no serve environment in {serve_folder()}: run `make env-serve`")
    found = await evidence(short=True)
    assert {"base", "planner@v1"} == set(found.figures)
    assert [] == found.broken
