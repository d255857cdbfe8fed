"""`POST /retrieve` of the real process, as any client of the contract sees it."""

import asyncio
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from consumers.effects.model_client import Endpoint
from ops.embedded.state import free_port
from ops.retrieval.config import RetrievalConfig
from tests.support.retrieval import served
from tests.support.scripted_model import ScriptedModel

_PASSAGES = (
    ("p0", "Waverley\nWaverley is a novel by Walter Scott, published in 1814."),
    ("p1", "Ivanhoe\nIvanhoe is another novel by Walter Scott."),
    ("p2", "Edinburgh\nEdinburgh is the capital of Scotland."),
)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a service over three passages, once it is ready."""
    folder, port = tmp_path_factory.mktemp("retrieval"), free_port(set())
    passages = folder / "passages.jsonl"
    passages.write_text("".join(json.dumps({"id": i, "contents": c}) + "\n" for i, c in _PASSAGES))
    config = RetrievalConfig(
        passages=str(passages), folder=str(folder / "index"), top_k=2, port=port
    )
    with served(config):
        base = f"http://127.0.0.1:{port}"
        _until_ready(base)
        yield base


def _until_ready(base: str) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            if _call(f"{base}/health")[0] == 200:
                return
        except urllib.error.URLError:
            pass
        assert time.monotonic() < end
        time.sleep(0.1)


def _call(url: str, body: bytes | None = None, **headers: str) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(url, data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read() or b"{}")


def _ask(url: str, **request: Any) -> tuple[int, dict[str, Any]]:
    return _call(f"{url}/retrieve", json.dumps(request).encode())


def test_each_query_has_its_own_list_best_first(url: str) -> None:
    """The contract: documents with their contents, and scores that fall."""
    status, found = _ask(url, queries=["a novel by Scott", "capital"], topk=3, return_scores=True)
    assert 200 == status
    novels, capitals = found["result"]
    assert {"p0", "p1"} == {hit["document"]["id"] for hit in novels}
    assert novels[0]["score"] >= novels[1]["score"] > 0
    (capital,) = capitals
    assert {"id": "p2", "contents": _PASSAGES[2][1]} == capital["document"]


def test_without_scores_the_documents_are_bare(url: str) -> None:
    """As in the server that the contract comes from."""
    status, found = _ask(url, queries=["capital"])
    assert (200, [[{"id": "p2", "contents": _PASSAGES[2][1]}]]) == (status, found["result"])


def test_a_query_that_finds_nothing_has_an_empty_list(url: str) -> None:
    """It is an answer, not an error."""
    status, found = _ask(url, queries=["zebra"], return_scores=True)
    assert (200, [[]]) == (status, found["result"])


def test_a_reply_says_what_was_searched(url: str) -> None:
    """The corpus' digest is recorded with what was found, so that an answer can be traced to it."""
    corpus = _ask(url, queries=["zebra"])[1]["corpus"]
    assert _call(f"{url}/health")[1]["corpus_sha256"] == corpus


def test_as_many_are_found_as_the_service_is_set_to(url: str) -> None:
    """Two, unless the request says otherwise."""
    words = "Waverley Ivanhoe Edinburgh"
    assert [2, 1] == [
        len(_ask(url, queries=[words], **more)[1]["result"][0]) for more in ({}, {"topk": 1})
    ]


@pytest.mark.parametrize(
    "body,said",
    [
        (b"", "send"),
        (b"queries", "send"),
        (b"[]", "send"),
        (b"{}", "queries"),
        (b'{"queries": "one"}', "array"),
        (b'{"queries": []}', "length >= 1"),
        (b'{"queries": [7]}', "str"),
        (b'{"queries": [""]}', "length >= 1"),
        (b'{"queries": ["a", " "]}', "query 1 is blank"),
        (b'{"queries": ["a"], "topk": 0}', ">= 1"),
        (b'{"queries": ["a"], "topk": 101}', "<= 100"),
        (b'{"queries": ["a"], "topk": "3"}', "int"),
        (b'{"queries": ["a"], "return_scores": 1}', "bool"),
        (json.dumps({"queries": ["x" * 4_001]}).encode(), "length <= 4000"),
        (json.dumps({"queries": ["x"] * 257}).encode(), "length <= 256"),
        (b'{"queries": ["\xff"]}', "send"),
        (b"[" * 100_000, "send"),
    ],
)
def test_a_bad_request_is_told_what_to_send(url: str, body: bytes, said: str) -> None:
    """Every one is a 400 in words with the form; the service goes on."""
    status, reply = _call(f"{url}/retrieve", body)
    assert 400 == status
    assert said in reply["error"]
    assert '"topk": 3' in reply["error"]


def test_a_body_without_end_is_refused(url: str) -> None:
    """A megabyte is far beyond any request."""
    status, reply = _call(f"{url}/retrieve", b'{"queries": ["' + b"x" * 2**20)
    assert 413 == status
    assert "fewer queries" in reply["error"]


def test_a_foreign_host_is_refused(url: str) -> None:
    """A page in a browser that names us by its own domain reads nothing."""
    request = urllib.request.Request(f"{url}/health", headers={"host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=10)


def test_health_tells_what_is_served(url: str) -> None:
    """How many passages, and of which corpus."""
    status, facts = _call(f"{url}/health")
    assert (200, "ready", 3, 0) == (status, facts["status"], facts["passages"], facts["skipped"])
    assert 64 == len(facts["corpus_sha256"])


def test_a_service_without_passages_ends_in_words(tmp_path: Path) -> None:
    """The supervisor's log has the reason and the remedy."""
    config = RetrievalConfig(
        passages=str(tmp_path), folder=str(tmp_path / "i"), top_k=3, port=free_port(set())
    )
    with served(config) as process:
        said, _ = process.communicate(timeout=30)
    assert 1 == process.returncode
    assert b"holds no .jsonl file" in said
    assert b"Set retrieval.passages" in said


async def test_without_its_embedder_a_service_with_vectors_says_so(tmp_path: Path) -> None:
    """It builds with the embedder, and answers 503 without: there is no silent step down."""
    passages, port, model = tmp_path / "p.jsonl", free_port(set()), ScriptedModel()
    await asyncio.to_thread(passages.write_text, '{"id": "a", "contents": "Waverley"}')
    await model.start()
    config = RetrievalConfig(
        passages=str(passages),
        folder=str(tmp_path / "index"),
        top_k=1,
        port=port,
        embedder=Endpoint(base_url=model.base_url),
        model="scripted",
    )
    base = f"http://127.0.0.1:{port}"
    with served(config):
        try:
            await asyncio.to_thread(_until_ready, base)
            status, found = await asyncio.to_thread(_ask, base, queries=["zebra"])
            assert (200, "a") == (status, found["result"][0][0]["id"])
        finally:
            await model.stop()
        status, found = await asyncio.to_thread(_ask, base, queries=["Waverley"])
        assert 503 == status
        assert "the embedder does not answer" in found["error"]
        assert 200 == (await asyncio.to_thread(_call, f"{base}/health"))[0]
