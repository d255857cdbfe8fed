"""A request names a version of its run; servers are told whose weights that is."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from consumers.effects.model_client import Endpoint, ModelClient
from consumers.effects.versions import Versions
from mia_events.effects import Call, Message
from mia_events.steps import Late, Manifest, Poison, RunView
from tests.support.lora_server import LoraServer, lora_server
from tests.support.registry import MemoryPolicies


def _run(number: int) -> RunView:
    return RunView(
        run_no=number, id=UUID(int=number), name=f"run{number}", scope="s", manifest=Manifest()
    )


def _call(model: str, **more: Any) -> Call:
    return Call(role="planner", model=model, messages=(Message("user", "?"),), max_tokens=4, **more)


async def test_a_version_is_that_of_the_run_that_asks() -> None:
    """Two runs call theirs version 1."""
    policies = MemoryPolicies()
    ours = policies.register(1, "a" * 64, run_no=1)
    theirs = policies.register(1, "b" * 64, run_no=2)
    versions = Versions(policies)
    assert [ours, theirs] == [await versions.served(_run(n), "planner@v1") for n in (1, 2)]


async def test_the_registry_is_asked_once_for_a_version() -> None:
    """Its weights never change, so what was read stays true."""
    policies = MemoryPolicies()
    name = policies.register(1, "a" * 64)
    versions = Versions(policies)
    assert [name] * 3 == [await versions.served(_run(1), "planner@v1") for _ in range(3)]
    assert 1 == policies.reads


@pytest.mark.parametrize("model", ["base", "smollm2-135m-instruct", "planner@latest"])
async def test_other_models_are_asked_for_as_they_are(model: str) -> None:
    """The registry is for versions alone."""
    policies = MemoryPolicies()
    assert await Versions(policies).served(_run(1), model) is None
    assert 0 == policies.reads


async def test_an_unregistered_version_is_refused() -> None:
    """No server is asked for weights that nobody has registered, and nothing is waited for."""
    versions = Versions(MemoryPolicies())
    with pytest.raises(Poison, match=r"planner@v9 is no version of run run1.*mia policy list run1"):
        await versions.served(_run(1), "planner@v9")


async def test_a_version_registered_later_is_found() -> None:
    """That it was missing once is not remembered."""
    policies = MemoryPolicies()
    versions = Versions(policies)
    with pytest.raises(Poison):
        await versions.served(_run(1), "planner@v1")
    name = policies.register(1, "a" * 64)
    assert name == await versions.served(_run(1), "planner@v1")


async def test_the_server_is_asked_by_its_own_name_and_the_reply_says_what_answered() -> None:
    """The recorded request keeps the run's name for the version."""
    name = "planner@v1-0123456789ab"
    async with (
        lora_server(LoraServer()) as server,
        ModelClient({"planner": Endpoint(base_url=server.url)}) as models,
    ):
        server.adapters[name] = "/somewhere"
        call = _call("planner@v1")
        reply = await models.chat(call, served=name)
    assert [name] == [chat["model"] for chat in server.chats]
    assert name == reply.model
    assert "planner@v1" == call.model


@pytest.mark.parametrize("tolerate", [False, True])
async def test_a_registered_version_that_is_not_served_yet_is_waited_for(tolerate: bool) -> None:
    """It will be loaded: the command gives its slot back, soon comes again, and never fails."""
    async with (
        lora_server(LoraServer()) as server,
        ModelClient({"planner": Endpoint(base_url=server.url)}) as models,
    ):
        with pytest.raises(Late, match="does not serve planner@v1-0123456789ab yet") as late:
            await models.chat(
                _call("planner@v1", tolerate=tolerate), served="planner@v1-0123456789ab"
            )
        assert 0 < late.value.delay_s < 3
        with pytest.raises(Poison, match=r"models\.planner\.model"):
            await models.chat(_call("no-such-model"))
