"""vLLM exchanges its weights while it is asked: a reply is of the version that it was asked of."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from consumers.effects.full_weights import FullWeights
from consumers.effects.model_client import Endpoint, ModelClient
from consumers.train.packing import pack
from mia_events.effects import Call, Message, ModelReply
from mia_events.learning.versions import SERVED_BASE
from mia_events.steps import Late
from ops.embedded.state import Home, free_port
from ops.embedded.supervisor import Supervisor
from ops.embedded.vllm_server import CHAT_MODEL, VllmServer, chat_server
from ops.environments import ServeEnvironment, find_serve_environment, serve_folder
from ops.serving.folders import VersionFolders, unpack_checkpoint
from ops.serving.full_weights import FullWeightsReplica
from ops.serving.placement import Turns
from ops.serving.reconciler import Reconciler
from ops.serving.weights import Array, Weights, write_weights
from tests.support.registry import MemoryArtifacts, MemoryPolicies

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

_TURN_S = 3.0
_STREAMS, _REPLIES = 4, 3


@pytest.fixture(scope="module")
def environment() -> ServeEnvironment:
    """Where vLLM is."""
    found = find_serve_environment(serve_folder())
    if found is None:
        pytest.skip(f"no serve environment in {serve_folder()}: run `make env-serve`")
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    environment: ServeEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VllmServer]:
    """A server with the routes that exchange weights; stopped at the end."""
    home = Home(tmp_path_factory.mktemp("engines"))
    found = chat_server(environment, free_port(set()), environment.cache)
    spec = found.spec()
    spec = replace(spec, env={**spec.env, "VLLM_SERVER_DEV_MODE": "1"})
    with home.locked():
        supervisor = Supervisor(home, [spec])
        try:
            await supervisor.start()
            yield found
        finally:
            await supervisor.stop()


def _checkpoint(base: Path, folder: Path, seed: int) -> bytes:
    """The base model with noise on what its last layers attend to, packed as a trainer does."""
    weights = Weights(next(base.glob("*.safetensors")))
    noise = np.random.default_rng(seed)

    def changed(name: str) -> Array:
        tensor = weights[name]
        if ".self_attn.o_proj." not in name:
            return tensor
        scale = np.float32(tensor.std())
        return tensor + scale * noise.standard_normal(tensor.shape, dtype=np.float32)

    folder.mkdir()
    write_weights(folder / "model.safetensors", weights.shapes, changed)
    files = {"model.safetensors": (folder / "model.safetensors").read_bytes()}
    return pack({**files, "config.json": (base / "config.json").read_bytes()})


def _call() -> Call:
    question = Message("user", "Plan a walk through a town in three steps.")
    return Call(
        role="planner", model=CHAT_MODEL, messages=(question,), max_tokens=16, capture_tokens=True
    )


async def test_every_version_answers_with_its_own_weights_in_turns(
    server: VllmServer, environment: ServeEnvironment, tmp_path: Path
) -> None:
    """Of the base model and two versions, asked all the while at one server: no request fails, and
    the same greedy one has the same tokens from the same weights whenever they come back.
    """
    base, endpoint = environment.chat_model, Endpoint(base_url=server.base_url)
    artifacts, policies = MemoryArtifacts(), MemoryPolicies()
    policies.base = True
    names = [SERVED_BASE]
    for number in (1, 2):
        sha = await artifacts.put(_checkpoint(base, tmp_path / str(number), number))
        names.append(policies.register(number, sha))
    folders = VersionFolders(
        artifacts, tmp_path / "checkpoints", unpacked=unpack_checkpoint, base=base
    )
    async with FullWeightsReplica(endpoint) as replica, ModelClient({"planner": endpoint}) as chats:
        started = await chats.chat(_call())
        planner = FullWeights(chats, [endpoint])
        levelling = asyncio.create_task(
            _level_on(Reconciler(policies, folders, [replica], Turns(_TURN_S)))
        )
        replies = await asyncio.gather(
            *(_stream(planner, name) for name in names for _ in range(_STREAMS))
        )
        levelling.cancel()
    told = {name: {r.token_ids for r in chain(*replies) if r.model == name} for name in names}
    assert [1, 1, 1] == [len(told[name]) for name in names]
    assert 3 == len(set.union(*told.values()))
    assert {started.token_ids} == told[SERVED_BASE]


async def _stream(planner: FullWeights, name: str) -> list[ModelReply]:
    """Ask again and again, as long as it takes."""
    found: list[ModelReply] = []
    while len(found) < _REPLIES:
        try:
            found.append(await planner.chat(_call(), held=name, model=CHAT_MODEL))
        except Late as late:
            await asyncio.sleep(late.delay_s / 4)
    return found


async def _level_on(reconciler: Reconciler) -> None:
    while True:
        await reconciler.once()
        await asyncio.sleep(0.2)
