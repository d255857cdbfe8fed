"""vLLM applies adapters, on a CPU, to the tokens that asked for them and to no other."""

import json
import subprocess
from pathlib import Path

import pytest

from ops.embedded.vllm_server import Adapters, chat_server
from ops.environments import find_serve_environment, serve_folder

_NOISE = 1e-4


def test_adapters_touch_the_tokens_that_asked_for_them() -> None:
    """In layers and logits, in batches of every kind; by our plug-in, which vLLM found itself."""
    environment = find_serve_environment(serve_folder())
    if environment is None:
        pytest.skip(f"no serve environment in {serve_folder()}: run `make env-serve`")
    server = chat_server(environment, 1, environment.cache, adapters=Adapters(3, 8))
    done = subprocess.run(
        [str(environment.python), str(_program())],
        env=server.env(),
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout.splitlines()[-1])
    assert "GroupedLora" == told["wrapper"]
    assert [] == [name for name, apart in told["apart"].items() if max(apart) > _NOISE]


def _program() -> Path:
    return Path(__file__).parents[1] / "support" / "grouped_lora.py"
