"""The scripted model server over HTTP, as workers meet it."""

import asyncio
import json
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import aiohttp
import pytest

from tests.support.scripted_faults import Faults
from tests.support.scripted_model import ScriptedModel, serve, spawn, stats_of
from tests.support.scripted_replies import vector_of


def chat(content: str = "Hello", **changes: Any) -> bytes:
    """The bytes of a chat request."""
    messages = [{"role": "system", "content": "Task: compress."}]
    messages.append({"role": "user", "content": f'<data name="question">\n{content}\n</data>'})
    return json.dumps({"model": "m", "messages": messages, **changes}).encode()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedModel]:
    """A well-behaved server in this process."""
    async with serve(Faults(malformed_rate=0.0)) as running:
        yield running


@pytest.fixture
async def client() -> AsyncIterator[aiohttp.ClientSession]:
    """A client."""
    async with aiohttp.ClientSession() as session:
        yield session


async def post(
    client: aiohttp.ClientSession,
    server: ScriptedModel,
    body: bytes,
    path: str = "chat/completions",
) -> tuple[int, Any]:
    """Status and JSON of a reply."""
    async with client.post(f"{server.base_url}/{path}", data=body) as reply:
        return reply.status, await reply.json()


async def test_a_chat_completion_has_the_servers_fields(
    server: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    """Tokens with ids and log-probabilities come when they are asked for."""
    status, reply = await post(client, server, chat(logprobs=True, return_token_ids=True))
    (choice,) = reply["choices"]
    assert (status, choice["finish_reason"]) == (200, "stop")
    ids, logprobs = choice["token_ids"], choice["logprobs"]["content"]
    assert len(ids) == len(logprobs) == reply["usage"]["completion_tokens"]
    assert choice["message"]["content"] == "".join(token["token"] for token in logprobs)
    assert all(token["logprob"] < 0 for token in logprobs)
    assert len(reply["prompt_token_ids"]) == reply["usage"]["prompt_tokens"]


async def test_a_reply_stops_at_its_limit(
    server: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    """The finish reason tells that it was cut."""
    _, reply = await post(client, server, chat(max_tokens=3))
    assert (3, "length") == (
        reply["usage"]["completion_tokens"],
        reply["choices"][0]["finish_reason"],
    )


async def test_calls_are_counted_by_their_bytes(
    server: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    """A call that was made twice shows."""
    for body in (chat(seed=1), chat(seed=2), chat(seed=2)):
        await post(client, server, body)
    stats = await asyncio.to_thread(stats_of, server.base_url)
    assert 2 == stats["served"][sha256(chat(seed=2)).hexdigest()]
    assert (3, 1, {"compress": 3}) == (stats["total"], stats["repeated_chats"], stats["tasks"])


async def test_embeddings_come_in_the_order_of_their_texts(
    server: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    """One unit vector for each."""
    body = json.dumps({"model": "e", "input": ["one", "two"]}).encode()
    _, reply = await post(client, server, body, "embeddings")
    found = [tuple(one["embedding"]) for one in reply["data"]]
    assert [vector_of("one"), vector_of("two")] == found


async def test_a_failing_request_succeeds_when_it_is_repeated(
    server: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    """Attempts are counted by the request's bytes."""
    body = chat("x [[status 500 x2]]")
    assert [500, 500, 200] == [(await post(client, server, body))[0] for _ in range(3)]


async def test_a_dropped_connection_is_an_error_for_the_client(
    server: ScriptedModel, client: aiohttp.ClientSession
) -> None:
    """No reply comes, and none is counted as served."""
    with pytest.raises(aiohttp.ClientError):
        await post(client, server, chat("x [[drop x1]]"))
    assert 0 == server.served.total()


async def test_a_hanging_request_does_not_keep_the_server(client: aiohttp.ClientSession) -> None:
    """The client times out, others are served, and the server stops at once."""
    async with serve() as server:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await post(client, server, chat("x [[hang]]"))
        assert (await post(client, server, chat()))[0] == 200


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"model": "m"}', b'{"model": 1, "messages": [1]}'])
async def test_a_bad_request_is_refused(
    server: ScriptedModel, client: aiohttp.ClientSession, body: bytes
) -> None:
    """With an error of the usual shape."""
    status, reply = await post(client, server, body)
    assert (400, "scripted") == (status, reply["error"]["type"])


async def test_an_unknown_model_is_not_found(client: aiohttp.ClientSession) -> None:
    """A server that names its models serves no other."""
    async with serve(models=("planner",)) as server:
        status, _ = await post(client, server, chat())
        assert status == 404
        async with client.get(f"{server.base_url}/models") as reply:
            assert [one["id"] for one in (await reply.json())["data"]] == ["planner"]


def test_it_runs_as_a_process(free_port: int) -> None:
    """For tests whose workers are processes too."""
    with spawn(free_port, "--malformed-rate", "0") as base_url:
        assert 0 == stats_of(base_url)["total"]
