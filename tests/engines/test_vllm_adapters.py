"""vLLM takes planner versions while it answers, and gets them back after it was killed."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from consumers.effects.model_client import Endpoint, ModelClient
from mia_events.effects import Call, Message
from mia_events.steps import Late
from ops.embedded.state import Home, free_port
from ops.embedded.supervisor import Supervisor
from ops.embedded.vllm_server import CHAT_MODEL, Adapters, VllmServer, chat_server
from ops.environments import find_serve_environment, serve_folder
from ops.evidence.adapters import random_adapter
from ops.serving.folders import VersionFolders
from ops.serving.placement import Everywhere
from ops.serving.reconciler import Reconciler
from ops.serving.replica import Replica, VllmReplica
from tests.support.registry import MemoryArtifacts, MemoryPolicies
from tests.support.replica_suite import ReplicaSuite

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

_LAYERS, _HIDDEN = 30, 576  # of SmolLM2-135M


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def supervised(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[Supervisor, VllmServer]]:
    """The chat server with room for three versions; stopped at the end."""
    environment = find_serve_environment(serve_folder())
    if environment is None:
        pytest.skip(f"no serve environment in {serve_folder()}: run `make env-serve`")
    home = Home(tmp_path_factory.mktemp("engines"))
    server = chat_server(environment, free_port(set()), environment.cache, adapters=Adapters(3, 8))
    with home.locked():
        supervisor = Supervisor(home, [server.spec()])
        try:
            await supervisor.start()
            yield supervisor, server
        finally:
            await supervisor.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def replica(supervised: tuple[Supervisor, VllmServer]) -> AsyncIterator[Replica]:
    """The adapter under test."""
    async with VllmReplica(Endpoint(base_url=supervised[1].base_url)) as found:
        yield found


@pytest.fixture(scope="module")
def adapter() -> bytes:
    """One that the model can load."""
    return _adapter(1)


@pytest.fixture
def answer(supervised: tuple[Supervisor, VllmServer]) -> Callable[[str], Awaitable[str | None]]:
    """Ask the server as a client would."""

    async def asked(name: str) -> str | None:
        body = {"model": name, "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{supervised[1].base_url}/chat/completions", json=body) as response,
        ):
            found: str | None = (await response.json()).get("model")
            return found

    return asked


class TestVllm(ReplicaSuite):
    """The suite over the real server."""


async def test_every_version_answers_with_its_own_weights(
    supervised: tuple[Supervisor, VllmServer], tmp_path: Path
) -> None:
    """The same greedy request: another text from each version, the same from one at any time."""
    _, server = supervised
    artifacts, policies = MemoryArtifacts(), MemoryPolicies()
    names = [
        policies.register(number, await artifacts.put(_adapter(number, scale=0.3)))
        for number in (1, 2)
    ]
    endpoint = Endpoint(base_url=server.base_url)
    async with VllmReplica(endpoint) as replica, ModelClient({"planner": endpoint}) as models:
        reconciler = Reconciler(
            policies, VersionFolders(artifacts, tmp_path), [replica], Everywhere(3)
        )
        with pytest.raises(Late, match="does not serve"):
            await models.chat(_call("planner@v1"), served=names[0])
        assert (await reconciler.once()).is_level
        said = [await models.chat(_call("planner@v"), served=name) for name in names]
        base = await models.chat(_call(CHAT_MODEL))
        again = await models.chat(_call("planner@v1"), served=names[0])
        policies.served.clear()
        assert (await reconciler.once()).is_level
    assert names == [reply.model for reply in said]
    assert 3 == len({reply.token_ids for reply in (*said, base)})
    assert said[0].token_ids == again.token_ids


async def test_the_base_model_is_itself_beside_as_many_versions_as_fit(
    supervised: tuple[Supervisor, VllmServer], tmp_path: Path
) -> None:
    """Who judges or executes is not answered by the weights of a planner in the same step."""
    artifacts, policies = MemoryArtifacts(), MemoryPolicies()
    names = {
        number: policies.register(number, await artifacts.put(_adapter(number, scale=0.3)))
        for number in (1, 2, 3)
    }
    endpoint = Endpoint(base_url=supervised[1].base_url)
    async with VllmReplica(endpoint) as replica, ModelClient({"planner": endpoint}) as models:
        reconciler = Reconciler(
            policies, VersionFolders(artifacts, tmp_path), [replica], Everywhere(3)
        )
        assert (await reconciler.once()).is_level
        alone = await models.chat(_call(CHAT_MODEL))
        versions = [models.chat(_call(f"planner@v{n}"), served=name) for n, name in names.items()]
        *_, beside = await asyncio.gather(*versions, models.chat(_call(CHAT_MODEL)))
        policies.served.clear()
        assert (await reconciler.once()).is_level
    assert alone.token_ids == beside.token_ids


async def test_versions_come_back_after_a_kill(
    supervised: tuple[Supervisor, VllmServer], tmp_path: Path
) -> None:
    """A new server knows its base model alone; one pass later it serves what it did, bit by bit."""
    supervisor, server = supervised
    artifacts, policies = MemoryArtifacts(), MemoryPolicies()
    name = policies.register(7, await artifacts.put(_adapter(7, scale=0.3)))
    endpoint = Endpoint(base_url=server.base_url)
    async with VllmReplica(endpoint) as replica, ModelClient({"planner": endpoint}) as models:
        reconciler = Reconciler(
            policies, VersionFolders(artifacts, tmp_path), [replica], Everywhere(3)
        )
        await reconciler.once()
        before = await models.chat(_call("planner@v7"), served=name)
        child = supervisor.child(server.name)
        old = child.pid
        child.ready.clear()
        os.kill(old, signal.SIGKILL)
        await asyncio.sleep(1)
        assert "away" in (await reconciler.once()).replicas[0].problem
        await child.ready.wait()
        assert (await reconciler.once()).replicas[0].loaded == (name,)
        after = await models.chat(_call("planner@v7"), served=name)
    assert before.token_ids == after.token_ids
    assert old != child.pid


def _adapter(seed: int, scale: float = 0.02) -> bytes:
    return random_adapter(seed, _LAYERS, {"self_attn.q_proj": (_HIDDEN, _HIDDEN)}, scale=scale)


def _call(model: str) -> Call:
    question = Message("user", "Plan a walk through a town in three steps.")
    return Call(
        role="planner", model=model, messages=(question,), max_tokens=16, capture_tokens=True
    )
