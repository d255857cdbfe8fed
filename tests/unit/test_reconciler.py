"""Every server of the planner is brought level with the registry, whatever happens to it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from consumers.effects.model_client import Endpoint
from ops.evidence.adapters import random_adapter
from ops.serving.folders import VersionFolders
from ops.serving.placement import Everywhere
from ops.serving.reconciler import Reconciler
from ops.serving.replica import VllmReplica
from tests.support.lora_server import LoraServer, lora_server
from tests.support.registry import MemoryArtifacts, MemoryPolicies


@dataclass
class _Lab:
    artifacts: MemoryArtifacts
    policies: MemoryPolicies
    servers: list[LoraServer]
    reconciler: Reconciler

    async def version(self, number: int) -> str:
        """Register a version; what servers call it."""
        sha = await self.artifacts.put(random_adapter(number))
        return self.policies.register(number, sha)

    def served(self) -> list[set[str]]:
        return [set(server.adapters) for server in self.servers]


@pytest_asyncio.fixture
async def lab(tmp_path: Path) -> AsyncIterator[_Lab]:
    """Two servers, an empty registry."""
    artifacts, policies = MemoryArtifacts(), MemoryPolicies()
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(lora_server(LoraServer())) for _ in range(2)]
        replicas = [
            await stack.enter_async_context(VllmReplica(Endpoint(base_url=server.url)))
            for server in servers
        ]
        folders = VersionFolders(artifacts, tmp_path / "adapters")
        yield _Lab(
            artifacts, policies, servers, Reconciler(policies, folders, replicas, Everywhere(2))
        )


async def test_what_is_wanted_is_loaded_everywhere_and_what_is_not_is_unloaded(lab: _Lab) -> None:
    """A second pass finds nothing to do."""
    first, second = await lab.version(1), await lab.version(2)
    assert (await lab.reconciler.once()).is_level
    assert [{first, second}] * 2 == lab.served()
    lab.policies.served.discard((1, "planner@v1"))
    assert (await lab.reconciler.once()).is_level
    assert [{second}] * 2 == lab.served()
    asked = [list(server.asked) for server in lab.servers]
    assert (await lab.reconciler.once()).is_level
    assert asked == [server.asked for server in lab.servers]


async def test_a_server_that_lost_its_versions_gets_them_back(lab: _Lab) -> None:
    """After a restart vLLM serves its base model alone."""
    name = await lab.version(1)
    await lab.reconciler.once()
    lab.servers[0].adapters.clear()
    level = await lab.reconciler.once()
    assert [{name}] * 2 == lab.served()
    assert [(name,), ()] == [one.loaded for one in level.replicas]


async def test_a_server_that_is_away_holds_nobody_up(lab: _Lab, tmp_path: Path) -> None:
    """The others are level; it is told as away."""
    name = await lab.version(1)
    async with AsyncExitStack() as stack:
        urls = [lab.servers[0].url, "http://127.0.0.1:9/v1"]
        replicas = [
            await stack.enter_async_context(VllmReplica(Endpoint(base_url=url))) for url in urls
        ]
        folders = VersionFolders(lab.artifacts, tmp_path / "adapters")
        level = await Reconciler(lab.policies, folders, replicas, Everywhere(2)).once()
    here, away = level.replicas
    assert (name,) == here.serves
    assert "away" in away.problem
    assert not level.is_level


async def test_a_version_that_cannot_be_made_stops_no_other_and_is_not_tried_at_once_again(
    lab: _Lab,
) -> None:
    """Its artifact is lost, or is no adapter: the reason is told, the rest is served."""
    lost = lab.policies.register(1, "0" * 64)
    broken = lab.policies.register(2, await lab.artifacts.put(b"no adapter"))
    good = await lab.version(3)
    level = await lab.reconciler.once()
    assert [{good}] * 2 == lab.served()
    problem = level.replicas[0].problem
    assert f"{lost}: no artifact" in problem
    assert f"{broken}: a version's artifact is no tar" in problem
    again = await lab.reconciler.once()
    assert f"{lost}: tried again later" in again.replicas[0].problem


async def test_more_versions_than_servers_were_started_for_are_loaded_and_told(lab: _Lab) -> None:
    """They would push each other out of the batch: the operator is told what to set."""
    names = {await lab.version(number) for number in (1, 2, 3)}
    level = await lab.reconciler.once()
    assert [names] * 2 == lab.served()
    assert "serving.max_loras" in level.problem


@pytest.mark.parametrize("foreign", ["somebody-elses", "planner"])
async def test_what_is_not_ours_is_left_alone(lab: _Lab, foreign: str) -> None:
    """A server may serve adapters of others."""
    lab.servers[0].adapters[foreign] = "/elsewhere"
    await lab.reconciler.once()
    assert {foreign} == set(lab.servers[0].adapters)
