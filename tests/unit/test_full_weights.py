"""Servers that hold one version's weights at a time: whoever is asked, the right weights answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from consumers.effects.full_weights import FullWeights
from consumers.effects.model_client import Endpoint, ModelClient
from consumers.train.packing import pack
from mia_events.effects import Call, Message
from mia_events.learning.versions import SERVED_BASE, held_by, is_same_load, leaving, load_label
from mia_events.steps import Late
from ops.serving.folders import Damaged, VersionFolders, unpack_checkpoint
from ops.serving.full_weights import FullWeightsReplica
from ops.serving.placement import Turns
from ops.serving.reconciler import Reconciler
from ops.serving.routes import Away, Declined
from tests.support.registry import MemoryArtifacts, MemoryPolicies
from tests.support.weights_server import WeightsServer, weights_server

_TURN_S = 0.2
_CALL = Call(role="planner", model="planner@v1", messages=(Message("user", "Plan."),), max_tokens=8)


def _checkpoint(seed: int) -> bytes:
    return pack({"config.json": b"{}", "model.safetensors": bytes([seed])})


@dataclass
class _Lab:
    artifacts: MemoryArtifacts
    policies: MemoryPolicies
    servers: list[WeightsServer]
    replicas: list[FullWeightsReplica]
    reconciler: Reconciler
    planner: FullWeights
    checkpoints: Path

    async def version(self, number: int) -> str:
        """Register a version; what servers call it."""
        return self.policies.register(number, await self.artifacts.put(_checkpoint(number)))

    async def asked(self, held: str) -> str:
        """Ask until the weights are somewhere; what was said."""
        for _ in range(100):
            try:
                reply = await self.planner.chat(_CALL, held=held, model="base-model")
            except Late:
                await self.reconciler.once()
                await asyncio.sleep(_TURN_S / 4)
            else:
                assert held == reply.model
                return reply.text
        raise AssertionError(f"nobody came to hold {held}")


@pytest.fixture
def count() -> int:
    """How many servers there are."""
    return 2


@pytest_asyncio.fixture
async def lab(tmp_path: Path, count: int) -> AsyncIterator[_Lab]:
    """Some servers, an empty registry, a client."""
    artifacts, policies = MemoryArtifacts(), MemoryPolicies()
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_bytes(b"")
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(weights_server(WeightsServer())) for _ in range(count)
        ]
        endpoints = [Endpoint(base_url=server.url) for server in servers]
        replicas = [await stack.enter_async_context(FullWeightsReplica(one)) for one in endpoints]
        models = await stack.enter_async_context(ModelClient({"planner": endpoints[0]}))
        checkpoints = tmp_path / "checkpoints"
        folders = VersionFolders(artifacts, checkpoints, unpacked=unpack_checkpoint, base=base)
        reconciler = Reconciler(policies, folders, replicas, Turns(_TURN_S))
        planner = FullWeights(models, endpoints)
        yield _Lab(artifacts, policies, servers, replicas, reconciler, planner, checkpoints)


def test_labels_tell_what_is_held_since_when() -> None:
    """Another load of the same weights is another label; one who leaves takes no new requests."""
    name = "planner@v3-0123456789ab"
    label = load_label(name, "00c0ffee")
    assert name == held_by(label)
    assert None is held_by(leaving(label))
    assert SERVED_BASE == held_by(load_label(SERVED_BASE, "00c0ffee"))
    assert [None] * 4 == [held_by(other) for other in ("", "default", "loading+00c0ffee", name)]
    assert is_same_load(label, label)
    assert is_same_load(label, leaving(label))
    assert not is_same_load(label, load_label(name, "deadbeef"))
    assert not is_same_load(leaving(label), label)


async def test_each_version_answers_with_its_own_weights(lab: _Lab) -> None:
    """The base model is one of them: what a server was started with counts for nothing."""
    lab.policies.base = True
    first = await lab.version(1)
    assert (await lab.reconciler.once()).is_level
    assert {"base", first} == {server.held for server in lab.servers}
    assert f"said by {first}" == await lab.asked(first)
    assert "said by base" == await lab.asked(SERVED_BASE)


async def test_what_nobody_holds_is_late_and_asks_nobody(lab: _Lab) -> None:
    """No server is asked whose weights are others."""
    with pytest.raises(Late, match=r"holds planner@v9"):
        await lab.planner.chat(_CALL, held="planner@v9-0123456789ab", model="base-model")
    assert not any(server.answered_by for server in lab.servers)


@pytest.mark.parametrize("count", [1])
async def test_one_server_is_enough_for_several_versions(lab: _Lab) -> None:
    """They take turns: slow, and right."""
    names = [await lab.version(number) for number in (1, 2, 3)]
    assert [f"said by {name}" for name in names] == [await lab.asked(name) for name in names]
    assert set(names) == set(lab.servers[0].loads)


@pytest.mark.parametrize("count", [1])
async def test_a_load_lets_running_requests_end_and_their_replies_count(lab: _Lab) -> None:
    """While others wait, and are answered by weights that they did not ask for: that is noticed."""
    (server,), old, new = lab.servers, await lab.version(1), await lab.version(2)
    lab.policies.served.discard((1, "planner@v2"))
    await lab.reconciler.once()
    server.slow_s = 0.3
    running = asyncio.create_task(lab.planner.chat(_CALL, held=old, model="base-model"))
    await asyncio.sleep(0.1)
    lab.policies.served = {(1, "planner@v2")}
    loading = asyncio.create_task(lab.reconciler.once())
    assert f"said by {old}" == (await running).text
    assert (await loading).is_level
    assert new == server.held


@pytest.mark.parametrize("count", [1])
async def test_a_reply_of_weights_that_came_meanwhile_does_not_count(lab: _Lab) -> None:
    """The label was right when the request left, and wrong weights answered it."""
    (server,), old = lab.servers, await lab.version(1)
    await lab.reconciler.once()
    server.pause()
    asked = asyncio.create_task(lab.planner.chat(_CALL, held=old, model="base-model"))
    await asyncio.sleep(0.1)
    await lab.version(2)
    lab.policies.served = {(1, "planner@v2")}
    await lab.reconciler.once()
    with pytest.raises(Late):
        await asked
    assert [server.held] == server.answered_by


@pytest.mark.parametrize("count", [1])
async def test_the_same_weights_loaded_again_are_another_load(lab: _Lab) -> None:
    """Nobody knows what was there in between."""
    (server,), (replica,), name = lab.servers, lab.replicas, await lab.version(1)
    await lab.reconciler.once()
    label = server.label
    await replica.unload(name)
    assert frozenset() == await replica.present()
    await lab.reconciler.once()
    assert name == held_by(server.label)
    assert label != server.label


@pytest.mark.parametrize("count", [1])
async def test_a_server_that_was_started_again_holds_nothing_that_counts(lab: _Lab) -> None:
    """Until it is level again."""
    (server,), name = lab.servers, await lab.version(1)
    await lab.reconciler.once()
    server.restart()
    with pytest.raises(Late):
        await lab.planner.chat(_CALL, held=name, model="base-model")
    assert (name,) == (await lab.reconciler.once()).replicas[0].loaded
    assert f"said by {name}" == await lab.asked(name)


@pytest.mark.parametrize("count", [1])
async def test_a_load_that_its_process_left_half_done_is_done_again(lab: _Lab) -> None:
    """The server is paused and says that weights are on their way, or even that they are there."""
    (server,), name = lab.servers, await lab.version(1)
    await lab.reconciler.once()
    for label in ("loading+00000000", server.label, leaving(server.label)):
        server.label = label
        server.pause()
        assert (await lab.reconciler.once()).is_level
        assert not server.is_paused
        assert f"said by {name}" == await lab.asked(name)


@pytest.mark.parametrize("count", [1])
async def test_a_load_that_fails_leaves_a_server_that_nobody_asks(lab: _Lab) -> None:
    """Its weights are of no version; it is not left paused, and tried again later."""
    (server,), name = lab.servers, await lab.version(1)
    server.broken = True
    level = await lab.reconciler.once()
    assert "weights of another shape" in level.replicas[0].problem
    assert not server.is_paused
    with pytest.raises(Late):
        await lab.planner.chat(_CALL, held=name, model="base-model")
    assert "tried again later" in (await lab.reconciler.once()).replicas[0].problem


async def test_two_that_load_at_once_leave_no_wrong_label(lab: _Lab) -> None:
    """Whoever finds another's mark on the server gives up."""
    server, replica = lab.servers[0], lab.replicas[0]
    one, other = await lab.version(1), await lab.version(2)
    await lab.reconciler.once()
    server.label, server.slow_s = "default", 0.3
    first = asyncio.create_task(replica.load(one, lab.checkpoints / one))
    await asyncio.sleep(0.1)
    server.label = "loading+ffffffff"
    with pytest.raises(Declined, match="another process"):
        await first
    assert held_by(server.label) not in {one, other}


async def test_a_mark_that_is_found_is_taken_off(lab: _Lab) -> None:
    """The weights of either may be there, whoever's label it was."""
    server, replica, name = lab.servers[0], lab.replicas[0], await lab.version(1)
    await lab.reconciler.once()
    server.label, server.slow_s = "default", 0.3
    load = asyncio.create_task(replica.load(name, lab.checkpoints / name))
    await asyncio.sleep(0.1)
    server.label = load_label("planner@v7-0123456789ab", "00c0ffee")
    with pytest.raises(Declined, match="another process"):
        await load
    assert not await replica.present()
    assert not server.is_paused


async def test_a_base_model_that_nobody_asks_for_stays(lab: _Lab) -> None:
    """Until something else is to be there: to bring it back takes long."""
    lab.policies.base = True
    await lab.reconciler.once()
    lab.policies.base = False
    assert (await lab.reconciler.once()).is_level
    assert {"said by base"} == {await lab.asked(SERVED_BASE)}


async def test_while_another_process_levels_nothing_is_touched(lab: _Lab) -> None:
    """Only looked at."""
    await lab.version(1)
    lab.policies.busy = True
    level = await lab.reconciler.once()
    assert not level.is_level
    assert "another process" in level.problem
    assert [[], []] == [server.loads for server in lab.servers]


async def test_a_server_without_the_routes_says_how_to_start_it() -> None:
    """What an operator must do stands in the message."""
    async with (
        weights_server(WeightsServer(routes=False)) as plain,
        FullWeightsReplica(Endpoint(base_url=plain.url)) as replica,
    ):
        with pytest.raises(Declined, match="VLLM_SERVER_DEV_MODE=1"):
            await replica.present()


async def test_a_server_that_is_away_is_no_fault() -> None:
    """It may be starting."""
    async with FullWeightsReplica(Endpoint(base_url="http://127.0.0.1:9/v1")) as nobody:
        with pytest.raises(Away, match=r"127\.0\.0\.1:9"):
            await nobody.present()


async def test_a_version_without_files_is_declined_before_anything_stops(
    lab: _Lab, tmp_path: Path
) -> None:
    """The server goes on with what it holds."""
    name = await lab.version(1)
    await lab.reconciler.once()
    with pytest.raises(Declined, match="no checkpoint"):
        await lab.replicas[0].load("planner@v5-00000000000a", tmp_path / "nowhere")
    assert name == held_by(lab.servers[0].label)


def test_nothing_but_a_checkpoint_is_unpacked_as_one(tmp_path: Path) -> None:
    """An adapter would leave a server with the weights it had."""
    with pytest.raises(Damaged, match=r"no checkpoint: model\.safetensors"):
        unpack_checkpoint(pack({"config.json": b"{}"}), tmp_path / "planner@v1-0123456789ab")
    assert [] == list(tmp_path.iterdir())
