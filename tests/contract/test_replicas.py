"""Servers of the planner behind the port, scripted; `tests/engines` has the same with vLLM."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from consumers.effects.model_client import Endpoint
from ops.evidence.adapters import random_adapter
from ops.serving.replica import Replica, VllmReplica
from ops.serving.routes import Away, Declined
from tests.support.lora_server import LoraServer, lora_server
from tests.support.replica_suite import ReplicaSuite


@pytest_asyncio.fixture
async def server() -> AsyncIterator[LoraServer]:
    """A scripted server."""
    async with lora_server(LoraServer()) as running:
        yield running


@pytest_asyncio.fixture
async def replica(server: LoraServer) -> AsyncIterator[Replica]:
    """The adapter under test, pointed at it."""
    async with VllmReplica(Endpoint(base_url=server.url)) as found:
        yield found


@pytest.fixture
def adapter() -> bytes:
    """Any adapter will do."""
    return random_adapter(1)


@pytest.fixture
def answer(server: LoraServer) -> Callable[[str], Awaitable[str | None]]:
    """Ask the server as a client would."""

    async def asked(name: str) -> str | None:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{server.url}/chat/completions", json={"model": name}) as response,
        ):
            found: str | None = (await response.json()).get("model")
            return found

    return asked


class TestScripted(ReplicaSuite):
    """The suite over the scripted server."""


async def test_a_server_that_is_away_is_no_fault(server: LoraServer) -> None:
    """It may be starting: nobody answers there yet."""
    async with VllmReplica(Endpoint(base_url="http://127.0.0.1:9/v1")) as nobody:
        with pytest.raises(Away, match=r"127\.0\.0\.1:9"):
            await nobody.present()
        with pytest.raises(Away):
            await nobody.load("planner@v1-00000000000a", Path("/nowhere"))


async def test_a_server_without_adapters_says_how_to_start_it() -> None:
    """What an operator must do stands in the message."""
    async with (
        lora_server(LoraServer(updating=False)) as plain,
        VllmReplica(Endpoint(base_url=plain.url)) as found,
    ):
        with pytest.raises(Declined, match=r"--enable-lora.*VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            await found.load("planner@v1-00000000000a", Path("/nowhere"))


async def test_the_base_model_is_no_version(replica: Replica, server: LoraServer) -> None:
    """Only adapters are told."""
    assert frozenset() == await replica.present()
    server.adapters["theirs"] = "/somewhere"
    assert {"theirs"} == await replica.present()
