"""vLLM on this machine's CPU, under the supervisor that `mia up` uses."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import pytest_asyncio

from consumers.effects.model_client import Endpoint, ModelClient
from consumers.judge.reviews import read_review, review_schema
from mia_events.effects import Call, Message
from mia_events.steps import Poison
from ops.embedded.state import Home, free_port
from ops.embedded.supervisor import Supervisor
from ops.embedded.vllm_server import (
    CHAT_MODEL,
    EMBEDDING_MODEL,
    VllmServer,
    chat_server,
    embedding_server,
)
from ops.environments import find_serve_environment, serve_folder
from ops.retrieval.embedding import Embedding
from ops.retrieval.index import prepare_index
from ops.retrieval.passages import find_corpus

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

_KEY = "a-key-of-this-test"
_SCHEMA = {
    "type": "object",
    "properties": {
        "capital": {"type": "string", "maxLength": 40},
        "continent": {"enum": ["Africa", "Asia", "Europe"]},
    },
    "required": ["capital", "continent"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class _Engines:
    supervisor: Supervisor
    chat: VllmServer
    embedding: VllmServer

    async def post(self, server: VllmServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {_KEY}"}
        async with (
            aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
            session.post(f"{server.base_url}/{path}", json=body) as response,
        ):
            answer: dict[str, Any] = await response.json()
            return answer

    def client(self) -> ModelClient:
        endpoint = Endpoint(base_url=self.chat.base_url, api_key=_KEY)
        return ModelClient(dict.fromkeys(("planner", "judge", "executor"), endpoint))

    async def embed(self, texts: list[str]) -> list[list[float]]:
        body = {"model": EMBEDDING_MODEL, "input": texts}
        answer = await self.post(self.embedding, "embeddings", body)
        return [row["embedding"] for row in answer["data"]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engines(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[_Engines]:
    """Both servers, ready; stopped at the end."""
    environment = find_serve_environment(serve_folder())
    if environment is None:
        pytest.skip(f"no serve environment in {serve_folder()}: run `make env-serve`")
    root: Path = tmp_path_factory.mktemp("engines")
    home, first = Home(root), free_port(set())
    chat = chat_server(environment, first, environment.cache, api_key=_KEY)
    embedding = embedding_server(environment, free_port({first}), environment.cache, api_key=_KEY)
    with home.locked():
        supervisor = Supervisor(home, [chat.spec(), embedding.spec()])
        try:
            await supervisor.start()
            yield _Engines(supervisor, chat, embedding)
        finally:
            await supervisor.stop()


async def test_a_reply_follows_the_json_schema_of_the_request(engines: _Engines) -> None:
    """A small model rambles, so what stages parse is held to a grammar by the server."""
    answer = await engines.post(
        engines.chat,
        "chat/completions",
        {
            "model": CHAT_MODEL,
            "messages": [{"role": "user", "content": "Name the capital of France, in JSON."}],
            "max_tokens": 80,
            "temperature": 0,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "place", "schema": _SCHEMA, "strict": True},
            },
        },
    )
    place = json.loads(answer["choices"][0]["message"]["content"])
    assert {"capital", "continent"} == place.keys()
    assert place["continent"] in {"Africa", "Asia", "Europe"}
    assert 40 >= len(place["capital"])


async def test_a_reply_names_its_tokens_and_their_probabilities(engines: _Engines) -> None:
    """A trainer needs the ids that were sampled and the log-probabilities they had."""
    body = {
        "model": CHAT_MODEL,
        "messages": [{"role": "user", "content": "Count to three."}],
        "max_tokens": 8,
        "temperature": 1.0,
        "seed": 7,
        "logprobs": True,
        "return_token_ids": True,
    }
    answer = await engines.post(engines.chat, "chat/completions", body)
    choice = answer["choices"][0]
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"])
    assert 0 < len(choice["token_ids"]) <= 8
    assert answer["usage"]["prompt_tokens"] == len(answer["prompt_token_ids"])
    assert all(entry["logprob"] <= 0 for entry in choice["logprobs"]["content"])


async def test_a_trained_turn_comes_back_token_by_token(engines: _Engines) -> None:
    """Through the client of the workers: vLLM takes the request, and everything is captured."""
    call = Call(
        role="planner",
        model=CHAT_MODEL,
        messages=(Message("user", "Plan a walk in two steps."),),
        max_tokens=24,
        seed=7,
        capture_tokens=True,
        trained=True,
    )
    async with engines.client() as client:
        first, again = await client.chat(call), await client.chat(call)
    assert "" == first.uncaptured
    assert first.completion_tokens == len(first.token_ids) == len(first.logprobs) > 0
    assert first.prompt_tokens == len(first.prompt_ids)
    assert first.token_ids == again.token_ids


async def test_a_review_is_held_to_its_schema_and_a_reply_to_its_stop_strings(
    engines: _Engines,
) -> None:
    """What the judge and the executors rely on."""
    review = Call(
        role="judge",
        model=CHAT_MODEL,
        messages=(Message("user", "Is the sky blue? Review the answer: yes."),),
        max_tokens=160,
        schema=review_schema("validity"),
    )
    counted = Call(
        role="executor",
        model=CHAT_MODEL,
        messages=(Message("user", "Write: one, two, three, four, five."),),
        max_tokens=40,
        stop=(",",),
    )
    async with engines.client() as client:
        assert read_review("validity", (await client.chat(review)).text).score in range(1, 11)
        stopped = await client.chat(counted)
    assert "stop" == stopped.finish_reason
    assert "," not in stopped.text


async def test_an_unknown_model_is_a_clear_error(engines: _Engines) -> None:
    """It names the model and the setting."""
    call = Call(
        role="planner", model="no-such-model", messages=(Message("user", "?"),), max_tokens=4
    )
    async with engines.client() as client:
        with pytest.raises(Poison, match=r"'no-such-model'.*models\.planner\.model"):
            await client.chat(call)


async def test_embeddings_are_unit_vectors_that_know_what_is_alike(engines: _Engines) -> None:
    """384 dimensions, normalised, so that the inner product is the cosine."""
    texts = ["The Danube flows to the Black Sea.", "A river that ends in a sea.", "Tax law reform"]
    river, like, unlike = await engines.embed(texts)
    assert 384 == len(river)
    assert 1.0 == pytest.approx(math.hypot(*river), abs=1e-3)
    assert _cosine(river, like) > _cosine(river, unlike) + 0.2


async def test_passages_are_found_by_meaning(engines: _Engines, tmp_path: Path) -> None:
    """A query that shares no word finds its passage; one beyond the context stops nothing."""
    texts = ("The Danube ends in the Black Sea.", "Parliament changed taxation.", "\u6c34" * 3_000)
    path = tmp_path / "passages.jsonl"
    rows = (json.dumps({"id": str(n), "text": text}) for n, text in enumerate(texts))
    await asyncio.to_thread(path.write_text, "\n".join(rows))
    endpoint = Endpoint(base_url=engines.embedding.base_url, api_key=_KEY)
    async with ModelClient({"embedder": endpoint}) as models:
        embedding = Embedding(models, EMBEDDING_MODEL)
        index = await prepare_index(
            find_corpus(path),
            tmp_path / "index",
            lambda _: None,
            embed=embedding.vectors,
            embedder=EMBEDDING_MODEL,
        )
        query = "which river flows into an ocean"
        assert [] == index.search(query, 1)
        (found,) = index.search(query, 1, (await embedding.vectors([query]))[0])
    assert "0" == found.passage.id


async def test_the_key_is_asked_for_and_never_shown(engines: _Engines) -> None:
    """Without the key a request is refused; no list of processes shows it."""
    body = {"model": EMBEDDING_MODEL, "input": "hello"}
    for server, path in ((engines.embedding, "embeddings"), (engines.chat, "models")):
        async with aiohttp.ClientSession() as session:
            method = "GET" if path == "models" else "POST"
            async with session.request(method, f"{server.base_url}/{path}", json=body) as response:
                assert 401 == response.status
    lines = [" ".join(process.cmdline()) for process in _processes(engines)]
    assert lines
    assert [] == [line for line in lines if _KEY in line]


async def test_a_killed_server_serves_again_and_leaves_no_engine_behind(engines: _Engines) -> None:
    """Kill -9 of the server ends its engine too (it holds the memory), and a new one answers."""
    child = engines.supervisor.child("vllm-embedding")
    first = psutil.Process(child.pid)
    engine = first.children(recursive=True)
    assert engine
    before = await engines.embed(["the same text"])
    first.kill()
    await _until(lambda: child.pid not in {0, first.pid})
    await asyncio.to_thread(psutil.wait_procs, engine, timeout=30)
    assert [] == [process for process in engine if process.is_running()]
    await child.ready.wait()
    assert before == await engines.embed(["the same text"])


def _cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def _processes(engines: _Engines) -> list[psutil.Process]:
    tops = [psutil.Process(status.pid) for status in engines.supervisor.status()]
    return [process for top in tops for process in (top, *top.children(recursive=True))]


async def _until(condition: Callable[[], bool], patience_s: float = 60.0) -> None:
    async with asyncio.timeout(patience_s):
        while not condition():  # noqa: ASYNC110 - a pid changes without telling
            await asyncio.sleep(0.1)
