"""The retrieval service under load, over real passages and HotpotQA's own questions.

The corpus is the paragraphs of a hundred HotpotQA questions among six thousand other passages of
Wikipedia; gold is what a question's supporting facts name. A question is sent as it is, so the
second hop, which needs the first one's answer, is often out of reach of a single query.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import msgspec

from ops.bench.measure import percentile
from ops.connected import home_of
from ops.embedded.state import free_port
from ops.errors import Refused
from ops.evidence.record import Claim, Evidence
from ops.models import endpoints, ports_in_use
from ops.retrieval.child import retrieval_config
from ops.retrieval.config import RetrievalConfig
from ops.settings import Settings, load_settings

BASELINE: Final = Path(__file__).parent / "retrieval.json"

_ROOT: Final = Path(__file__).parents[2]
_DATA: Final = _ROOT.parent / "shared" / "data"
_FILES: Final = ("wiki_passages_6119.jsonl", "hotpotqa_100.json", "hotpot_dev_questions_7405.jsonl")
_START_S: Final = 600.0
_DEPTH: Final = 10


async def evidence(*, short: bool = False) -> Evidence:
    """Measure by words; with vectors too where an embedder is served (a stack that is up, or
    `models.embedder.base_url`).

    Raises:
        Refused: the data are not on this machine.
    """
    missing = [name for name in _FILES if not (_DATA / name).exists()]
    if missing:
        raise Refused(f"there is no {missing[0]} in {_DATA}", "Nothing was measured.")
    with tempfile.TemporaryDirectory(prefix="mia-bench-") as folder:
        gold = _corpus(Path(folder) / "passages.jsonl")
        figures: dict[str, Any] = {"words": await _measured(_config(folder), gold, short=short)}
        settings = load_settings()
        if "embedder" in endpoints(settings, ports_in_use(home_of(settings))):
            config = _config(folder, settings)
            figures["words and vectors"] = await _measured(config, gold, short=short)
    return Evidence(figures=figures, claims=_claims(figures["words"]))


def _claims(words: dict[str, Any]) -> tuple[Claim, ...]:
    p95, again = words["one_at_a_time_ms"]["p95"], words["opened_again_s"]
    return (
        Claim(f"p95 of one query at a time: {p95} ms, at most 25 ms", p95 <= 25),  # noqa: PLR2004
        Claim(f"the index is opened again in {again} s, at most 5 s", again <= 5),  # noqa: PLR2004
        Claim(f"{words['failed']} of the queries failed", words["failed"] == 0),
    )


def _config(folder: str, settings: Settings | None = None) -> RetrievalConfig:
    chosen = settings or Settings()
    section = {"passages": f"{folder}/passages.jsonl", "dense": settings is not None}
    chosen = msgspec.structs.replace(
        chosen, home=folder, retrieval=msgspec.structs.replace(chosen.retrieval, **section)
    )
    models = {} if settings is None else endpoints(settings, ports_in_use(home_of(settings)))
    return retrieval_config(chosen, models, free_port(set()))


def _corpus(path: Path) -> dict[str, frozenset[str]]:
    """Write the passages; returns the gold titles of each question."""
    gold: dict[str, frozenset[str]] = {}
    with path.open("w") as file:
        file.write((_DATA / _FILES[0]).read_text())
        seen: set[str] = set()
        for row in json.loads((_DATA / _FILES[1]).read_text()):
            gold[row["question"]] = frozenset(title for title, _ in row["supporting_facts"])
            for title, sentences in row["context"]:
                contents = f"{title}\n{''.join(sentences)}"
                if contents not in seen:
                    seen.add(contents)
                    row_ = {"id": f"hotpot-{len(seen)}", "contents": contents}
                    file.write(json.dumps(row_) + "\n")
    return gold


async def _measured(
    config: RetrievalConfig, gold: dict[str, frozenset[str]], *, short: bool
) -> dict[str, Any]:
    lines = (_DATA / _FILES[2]).read_text().splitlines()
    load = [json.loads(line)["question"] for line in lines]
    async with _served(config) as client:
        facts = await client.facts()
        recall = {f"recall@{k}": await _recall(client, gold, k) for k in (3, _DEPTH)}
        await client.timed(load[-200:], at_once=1)
        alone = await client.timed(load[: 100 if short else 500], at_once=1)
        began = time.perf_counter()
        many = await client.timed(load[: 400 if short else 4_000], at_once=16)
        rate = len(many) / (time.perf_counter() - began)
    began = time.perf_counter()
    async with _served(config) as client:
        opened_s = time.perf_counter() - began
    return {
        "passages": facts["passages"],
        "index_s": round(facts["seconds"], 2),
        "opened_again_s": round(opened_s, 2),
        "one_at_a_time_ms": _summary_ms(alone),
        "16_at_once": {"queries_per_s": round(rate), "ms": _summary_ms(many)},
        "failed": sum(took is None for took in (*alone, *many)),
        **recall,
    }


def _summary_ms(times: Sequence[float | None]) -> dict[str, float]:
    took = [one for one in times if one is not None]
    return {f"p{p}": round(percentile(took, p / 100) * 1e3, 2) for p in (50, 95)}


async def _recall(client: _Client, gold: dict[str, frozenset[str]], k: int) -> dict[str, float]:
    """The mean share of gold titles found, and the share of questions with all of them."""
    shares = []
    for question, titles in gold.items():
        found = {hit.partition("\n")[0] for hit in await client.found(question, k)}
        shares.append(len(titles & found) / len(titles))
    whole = sum(share == 1 for share in shares)
    return {
        "gold_found": round(sum(shares) / len(shares), 3),
        "all_found": round(whole / len(shares), 3),
    }


class _Client:
    """Asks the service over HTTP."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url

    async def facts(self) -> dict[str, Any]:
        """What the service says of its index."""
        async with self._session.get(f"{self._url}/health") as response:
            facts: dict[str, Any] = await response.json()
            return facts

    async def found(self, query: str, count: int) -> list[str]:
        """The contents of what is found."""
        request = {"queries": [query], "topk": count}
        async with self._session.post(f"{self._url}/retrieve", json=request) as response:
            response.raise_for_status()
            return [one["contents"] for one in (await response.json())["result"][0]]

    async def timed(self, queries: Sequence[str], *, at_once: int) -> list[float | None]:
        """Seconds per query; None for one that failed."""
        waiting = iter(queries)
        times: list[float | None] = []

        async def ask() -> None:
            for query in waiting:
                began = time.perf_counter()
                try:
                    await self.found(query, 3)
                except aiohttp.ClientError:
                    times.append(None)
                else:
                    times.append(time.perf_counter() - began)

        await asyncio.gather(*(ask() for _ in range(at_once)))
        return times


@asynccontextmanager
async def _served(config: RetrievalConfig) -> AsyncIterator[_Client]:
    """Run the service as `mia up` does, until it is ready."""
    process = subprocess.Popen(  # noqa: ASYNC220 - a moment, before anything is measured
        [sys.executable, "-P", "-m", "ops.retrieval"],
        cwd=_ROOT,
        env={"PYTHONPATH": str(_ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        assert process.stdin is not None
        process.stdin.write(msgspec.json.encode(config) + b"\n")
        process.stdin.flush()
        async with aiohttp.ClientSession() as session:
            client = _Client(session, f"http://127.0.0.1:{config.port}")
            async with asyncio.timeout(_START_S):
                await _until_ready(client, process)
            yield client
    finally:
        process.terminate()
        process.wait()


async def _until_ready(client: _Client, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        try:
            await client.found("ready", 1)
        except aiohttp.ClientError:
            await asyncio.sleep(0.05)
        else:
            return
    raise Refused("the retrieval service ended", "See what it printed.")


__all__ = ["BASELINE", "evidence"]
