"""The search tool over a retrieval service: what is found is data, what fails is classed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from consumers.effects.performer import RealPerformer
from consumers.tools.retrieval import RetrievalClient, RetrievalService
from mia_events.effects import ToolResult, UseTool
from mia_events.lifecycle import Kind
from mia_events.steps import Late, Poison, Transient
from tests.support.drive import QUESTION, task
from tests.support.histories import called, chosen

_HITS = [
    {"document": {"id": "w1", "contents": '"Waverley"\nA novel. </data>\x00'}, "score": 2.5},
    {"document": {"contents": "Untitled text"}, "score": 1},
    {"document": {"id": 3, "contents": "Long\n" + "x" * 5_000}, "score": 0.5},
]


class _Server:
    """Answers as it is told, and keeps what it was asked."""

    def __init__(self) -> None:
        self.reply: Any = {"result": [_HITS]}
        self.status, self.headers, self.delay_s = 200, {"a": "b"}, 0.0
        self.asked: list[Any] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(await request.json())
        await asyncio.sleep(self.delay_s)
        if isinstance(self.reply, bytes):
            return web.Response(body=self.reply, status=self.status, headers=self.headers)
        return web.json_response(self.reply, status=self.status, headers=self.headers)


@pytest.fixture
async def server() -> AsyncIterator[tuple[_Server, str]]:
    """Give a scripted service and its address."""
    scripted, app = _Server(), web.Application()
    app.router.add_post("/retrieve", scripted.answer)
    async with TestServer(app) as running:
        yield scripted, str(running.make_url("")).rstrip("/")


async def _search(base_url: str, **more: Any) -> ToolResult:
    async with RetrievalClient(RetrievalService(base_url=base_url, **more)) as client:
        return await client.search("who wrote Waverley")


async def test_what_is_found_is_numbered_cut_and_named(server: tuple[_Server, str]) -> None:
    """Sources carry the passages' ids; a passage is cut; only as many as wanted are told."""
    scripted, url = server
    scripted.reply["corpus"] = "abc"
    found = await _search(f"{url}/", top_k=2)
    assert "abc" == found.corpus
    assert [{"queries": ["who wrote Waverley"], "topk": 2, "return_scores": True}] == scripted.asked
    assert found.ok
    assert ("Waverley (w1)", "Untitled text") == found.sources
    lines = found.text.splitlines()
    assert lines[0].startswith("[1] Waverley: A novel.")
    assert "[2] Untitled text: Untitled text" == lines[1]
    assert len((await _search(url, top_k=3)).text) < 1_500


async def test_nothing_found_is_said(server: tuple[_Server, str]) -> None:
    """As for a question's own documents."""
    scripted, url = server
    scripted.reply = {"result": [[]]}
    assert ToolResult(ok=True, text="No document matches. Try other key words.") == await _search(
        url
    )


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_query_is_an_error_observation(
    server: tuple[_Server, str], status: int
) -> None:
    """The model is told why, at no length."""
    scripted, url = server
    scripted.status, scripted.reply = status, {"error": "query is blank" + "!" * 999}
    found = await _search(url)
    assert not found.ok
    assert "query is blank" in found.text
    assert len(found.text) < 300


@pytest.mark.parametrize(
    "status,error", [(429, Late), (502, Late), (503, Late), (504, Late), (500, Transient)]
)
async def test_a_service_in_trouble_is_asked_again(
    server: tuple[_Server, str], status: int, error: type[Exception]
) -> None:
    """Away or busy is nobody's fault; a fault of its own counts."""
    scripted, url = server
    scripted.status, scripted.reply = status, {"error": "not ready, reading passages 40 %"}
    with pytest.raises(error, match="reading passages 40 %"):
        await _search(url)


async def test_the_service_says_how_long_to_wait(server: tuple[_Server, str]) -> None:
    """Its own wish is heeded, within a minute."""
    scripted, url = server
    scripted.status = 503
    for wish, expected in (("7", 7.0), ("9999", 60.0), ("soon", 2.0)):
        scripted.headers = {"retry-after": wish}
        with pytest.raises(Late) as late:
            await _search(url)
        assert expected == late.value.delay_s


async def test_a_service_that_is_away_or_hangs_is_waited_for(server: tuple[_Server, str]) -> None:
    """Neither is the command's failure."""
    scripted, url = server
    with pytest.raises(Late, match="is away"):
        await _search("http://127.0.0.1:9")
    scripted.delay_s = 5.0
    with pytest.raises(Late, match=r"no answer within 0\.1 s"):
        await _search(url, timeout_s=0.1)


@pytest.mark.parametrize("status", [302, 401, 404])
async def test_what_is_no_retrieval_service_is_no_answer(
    server: tuple[_Server, str], status: int
) -> None:
    """A wrong address is no search without results; no redirect is followed."""
    scripted, url = server
    scripted.status, scripted.headers = status, {"location": "http://127.0.0.1:9/retrieve"}
    with pytest.raises(Poison, match=r"check retrieval\.base_url"):
        await _search(url)


@pytest.mark.parametrize(
    "reply",
    [
        b"<html>",
        b"{}",
        {"result": []},
        {"result": [[], []]},
        {"result": [[{"score": 1}]]},
        b'{"result": "\xff"}',
    ],
)
async def test_a_malformed_reply_is_no_answer(server: tuple[_Server, str], reply: Any) -> None:
    """Never an empty result that nobody gave."""
    scripted, url = server
    scripted.reply = reply
    with pytest.raises(Poison, match="is no retrieval service"):
        await _search(url)


async def test_a_reply_without_end_is_cut_off(server: tuple[_Server, str]) -> None:
    """Four megabytes are more than any passages."""
    scripted, url = server
    scripted.reply = b" " * (2**22 + 1)
    with pytest.raises(Poison, match="more than"):
        await _search(url)


async def test_the_service_is_for_questions_without_documents(server: tuple[_Server, str]) -> None:
    """A question's own documents come before any service; without both, an error observation."""
    scripted, url = server
    use = UseTool(tool="search", arguments={"query": "Waverley"}, question=QUESTION.id)
    own = UseTool(
        tool="search", arguments={"query": "Ivanhoe"}, question=QUESTION.id, documents="d"
    )
    at = task(Kind.ROLLOUT, [*chosen(), *called()])
    async with RetrievalClient(RetrievalService(base_url=url)) as client:
        with_service = _performer(client)
        assert ("Waverley (w1)",) == (await with_service.perform(use, at)).sources[:1]
        assert ("Ivanhoe",) == (await with_service.perform(own, at)).sources
    assert 1 == len(scripted.asked)
    assert not (await _performer(None).perform(use, at)).ok


class _Artifacts:
    """Holds one question's documents."""

    async def get(self, sha256: str) -> bytes:
        return b'[{"title": "Ivanhoe", "text": "Ivanhoe is a novel."}]'


def _performer(retrieval: RetrievalClient | None) -> Any:
    unused: Any = None
    artifacts: Any = _Artifacts()
    return RealPerformer(
        models=unused,
        versions=unused,
        memory=unused,
        ledger=unused,
        artifacts=artifacts,
        labels=None,
        retrieval=retrieval,
    )
