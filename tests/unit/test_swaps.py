"""What counts as a failed, an aborted or a changed reply while versions are swapped."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from aiohttp import web

from ops.evidence.swaps import Registry, Rollouts, Told, p99
from tests.support.loopback import on_loopback


class _Server:
    """Streams four tokens a reply; `spoil` may change what the nth chunk (from 0) says or raise."""

    def __init__(self, spoil: Callable[[int, dict[str, Any]], None]) -> None:
        self._spoil = spoil
        self.unknown = 0  # so many requests are for a version that is not there yet
        self.url = ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        if self.unknown:
            self.unknown -= 1
            return web.Response(status=404)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for place in range(4):
            finish = "length" if place == 3 else None
            choice = {"index": 0, "delta": {"content": "x"}, "finish_reason": finish}
            chunk = {"model": body["model"], "choices": [choice]}
            self._spoil(place, chunk)
            await response.write(b"data: " + msgspec.json.encode(chunk) + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response


def _application(server: _Server) -> web.Application:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", server.chat)
    return app


async def _told(spoil: Callable[[int, dict[str, Any]], None], unknown: int = 0) -> Told:
    """One rollout on each of two streams."""
    registry = Registry()
    registry.promote(registry.add("a" * 64))
    server = _Server(spoil)
    server.unknown = unknown
    async with on_loopback(_application(server)) as url:
        rollouts = Rollouts(url, registry, tokens=4)
        asyncio.get_running_loop().call_soon(asyncio.get_running_loop().call_soon, rollouts.end)
        return await rollouts.run(2)


def _nothing(place: int, chunk: dict[str, Any]) -> None:
    return


async def test_whole_replies_are_counted_with_the_gaps_between_their_tokens() -> None:
    """Two rollouts of three turns; the first token of a reply ends no gap."""
    told = await _told(_nothing)
    assert (2, 6, 24) == (told.rollouts, told.replies, told.tokens)
    assert 18 == len(told.gaps)
    assert (0, 0, 0, 0) == (told.failed, told.aborted, told.changed_version, told.waits)


async def test_a_reply_that_stops_early_is_aborted() -> None:
    """Its finish says so, whatever it said before."""

    def cut(place: int, chunk: dict[str, Any]) -> None:
        if place == 3:
            chunk["choices"][0]["finish_reason"] = "abort"

    assert 6 == (await _told(cut)).aborted


async def test_a_connection_that_breaks_is_a_failure() -> None:
    """The rollout ends with it."""

    def broken(place: int, chunk: dict[str, Any]) -> None:
        if place == 2:
            raise ConnectionResetError

    told = await _told(broken)
    assert 2 == told.failed
    assert told.problems


async def test_a_chunk_of_another_version_is_seen() -> None:
    """A rollout keeps its version to its last token."""

    def other(place: int, chunk: dict[str, Any]) -> None:
        if place == 3:
            chunk["model"] = "planner@v2-bbbbbbbbbbbb"

    assert 6 == (await _told(other)).changed_version


async def test_a_version_that_is_not_there_yet_is_waited_for() -> None:
    """That is no failure: it is counted apart."""
    told = await _told(_nothing, unknown=2)
    assert (2, 0, 6) == (told.waits, told.failed, told.replies)


@pytest.mark.parametrize(
    "values, expected", [([], 0.0), ([3.0], 3.0), ([*map(float, range(1, 101))], 99.0)]
)
def test_the_99th_percentile(values: list[float], expected: float) -> None:
    """Of a hundred values one is above 99 %."""
    assert expected == p99(values)


async def test_a_version_is_wanted_while_it_serves_is_new_or_is_held() -> None:
    """What a rollout holds stays until that rollout ends."""
    registry = Registry()
    first = registry.add("a" * 64)
    registry.promote(first)
    assert first == registry.hold()
    second = registry.add("b" * 64)
    assert ["planner@v1", "planner@v2"] == [row.name for row in await registry.wanted()]
    registry.promote(second)
    assert ["planner@v1", "planner@v2"] == [row.name for row in await registry.wanted()]
    registry.let_go(first)
    assert ["planner@v2"] == [row.name for row in await registry.wanted()]
