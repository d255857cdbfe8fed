"""The model client over HTTP: who is to blame for what goes wrong, and what is tried again."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from consumers.effects.model_client import Endpoint, ModelClient
from mia_events.effects import Call, Message
from mia_events.steps import Late, Poison, Transient
from tests.support.loopback import on_loopback

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
CALL = Call(role="planner", model="m", messages=(Message("user", "?"),), max_tokens=9)
GOOD = {"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}


@contextlib.asynccontextmanager
async def served(
    handler: Handler, role: str = "planner", **changes: Any
) -> AsyncIterator[ModelClient]:
    """A client of a server that answers with `handler`."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    async with (
        on_loopback(app) as url,
        ModelClient({role: Endpoint(base_url=url, **changes)}) as client,
    ):
        yield client


def answering(status: int, body: Any = None, **headers: str) -> Handler:
    """A server that always gives this answer."""

    async def handler(_: web.Request) -> web.Response:
        return web.json_response(GOOD if body is None else body, status=status, headers=headers)

    return handler


async def test_a_reply_is_read() -> None:
    """The way that all goes well."""
    async with served(answering(200)) as client:
        assert "hello" == (await client.chat(CALL)).text


@pytest.mark.parametrize("status", [408, 425, 429, 503])
async def test_a_busy_server_is_no_failure_of_the_command(status: int) -> None:
    """It is asked again after what it wishes, and somewhat later, so that not all come at once."""
    async with served(answering(status, **{"Retry-After": "4"})) as client:
        with pytest.raises(Late) as late:
            await client.chat(CALL)
        assert 4.0 <= late.value.delay_s <= 6.0


@pytest.mark.parametrize("wish", ["soon", "nan", "inf", "-5", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_strange_wish_is_bounded(wish: str) -> None:
    """No server can put a command off for ever."""
    async with served(answering(429, **{"Retry-After": wish})) as client:
        with pytest.raises(Late) as late:
            await client.chat(CALL)
        assert 0.0 <= late.value.delay_s <= 90.0


async def test_an_endpoint_that_refuses_the_connection_is_away(free_port: int) -> None:
    """The command waits and is not to blame."""
    endpoint = Endpoint(base_url=f"http://127.0.0.1:{free_port}/v1")
    async with ModelClient({"planner": endpoint}) as client:
        with pytest.raises(Late, match="is away"):
            await client.chat(CALL)


@pytest.mark.parametrize("status", [500, 502, 504])
async def test_a_fault_of_the_server_is_transient(status: int) -> None:
    """The command is retried with growing delays, so often and no more."""
    async with served(answering(status, {"error": "out of memory"})) as client:
        with pytest.raises(Transient, match=f"answered {status}.*out of memory"):
            await client.chat(CALL)


async def test_a_server_that_hangs_is_given_up() -> None:
    """After the role's time."""

    async def hang(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with served(hang, timeout_s=0.2) as client:
        with pytest.raises(Transient, match=r"no answer within 0\.2 s"):
            await client.chat(CALL)


async def test_an_unknown_model_is_named_with_its_endpoint_and_setting() -> None:
    """Whoever reads the dead letter knows what to change."""
    body = {"error": {"message": "The model `m` does not exist."}}
    async with served(answering(404, body)) as client:
        with pytest.raises(Poison) as refused:
            await client.chat(CALL)
    for part in ("'m'", "/v1/chat/completions", "models.planner.model", "models.default.model"):
        assert part in str(refused.value)


async def test_a_role_without_an_endpoint_names_its_setting() -> None:
    """Nothing is guessed."""
    async with ModelClient({}) as client:
        with pytest.raises(Poison, match=r"set models\.planner\.base_url"):
            await client.chat(CALL)


async def test_a_refusal_is_a_reply_where_it_is_tolerated() -> None:
    """The step goes on and states the problem."""
    tolerant = msgspec.structs.replace(CALL, tolerate=True)
    async with served(answering(400, {"error": "too long"})) as client:
        reply = await client.chat(tolerant)
    assert ("", "error") == (reply.text, reply.finish_reason)
    assert "too long" in reply.problem


@pytest.mark.parametrize("status,error", [(400, Poison), (429, Late), (500, Transient)])
async def test_an_error_of_the_judges_server_is_not_repeated(
    status: int, error: type[Exception]
) -> None:
    """It may quote the request, and that has the gold answer in it: errors are logged."""
    call = msgspec.structs.replace(CALL, role="judge")
    body = {"error": "cannot parse: gold answer Walter Scott"}
    async with served(answering(status, body), role="judge") as client:
        with pytest.raises(error) as raised:
            await client.chat(call)
    assert "Scott" not in str(raised.value)


async def test_a_broken_connection_is_made_again_at_once() -> None:
    """Twice; what breaks a third time is away."""
    breaks = [2]

    async def handler(request: web.Request) -> web.StreamResponse:
        if breaks[0]:
            breaks[0] -= 1
            assert request.transport is not None
            request.transport.abort()
        return web.json_response(GOOD)

    async with served(handler) as client:
        assert "hello" == (await client.chat(CALL)).text
        breaks[0] = 3
        with pytest.raises(Late, match="is away"):
            await client.chat(CALL)


async def test_a_role_has_no_more_requests_under_way_than_it_may() -> None:
    """The wait for a place does not count towards the time of a request."""
    now, most = [0], [0]

    async def handler(_: web.Request) -> web.Response:
        now[0] += 1
        most[0] = max(most[0], now[0])
        await asyncio.sleep(1.0)
        now[0] -= 1
        return web.json_response(GOOD)

    async with served(handler, concurrency=2, timeout_s=4.0) as client:
        await asyncio.gather(*(client.chat(CALL) for _ in range(12)))
    assert 2 == most[0]


async def test_the_key_is_sent_as_a_bearer_token() -> None:
    """And nowhere else."""
    seen: list[tuple[str, bytes]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.headers["authorization"], await request.read()))
        return web.json_response(GOOD)

    async with served(handler, api_key="s3cret") as client:
        await client.chat(CALL)
    ((header, body),) = seen
    assert "Bearer s3cret" == header
    assert b"s3cret" not in body
    assert "m" == json.loads(body)["model"]
