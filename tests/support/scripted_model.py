"""An OpenAI-compatible server whose replies are scripted.

Run it with ``python -m tests.support.scripted_model --port N``. It keeps nothing but counts of what
it was asked (`/_stats`), by the SHA-256 of the bytes of a request, so that a test can prove that a
call was made once.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from hashlib import sha256
from typing import Any

from aiohttp import web

from tests.support.lora_server import LoraRoutes
from tests.support.scripted_faults import Fate, Faults, fate_of
from tests.support.scripted_replies import Asked, logprob_of, reply_to, tokens_of, vector_of
from tests.support.weights_server import WeightsRoutes


class ScriptedModel:
    """The server. `served` counts replies by the request's digest, `asked` attempts.

    No two chats of a run are equal (their seeds differ), so `repeated_chats` of the statistics
    counts the calls that were paid for twice; embeddings of one text are asked for again.

    A `signed` reply names its request in its field `model`, so that whoever finds it recorded knows
    which request it answers; `chat_times` tells when each chat was asked for (UNIX time), `held`
    how many of each task were answered by which weights, where they are exchanged.
    """

    def __init__(
        self, faults: Faults | None = None, models: Sequence[str] = (), *, signed: bool = False
    ) -> None:
        self.faults = faults or Faults()
        self.signed = signed
        self.models = frozenset(models)
        self.lora = LoraRoutes()
        self.weights = WeightsRoutes()
        self.held: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.asked: Counter[str] = Counter()
        self.served: Counter[str] = Counter()
        self.tasks: Counter[str] = Counter()
        self.chats: set[str] = set()
        self.chat_times: defaultdict[str, list[float]] = defaultdict(list)
        self.statuses: Counter[int] = Counter()
        self.in_flight = 0
        self.peak = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def base_url(self) -> str:
        """What a client is configured with."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> dict[str, Any]:
        """What `/_stats` shows."""
        return {
            "asked": dict(self.asked),
            "served": dict(self.served),
            "tasks": dict(self.tasks),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "total": self.asked.total(),
            "repeated_chats": sum(self.served[digest] > 1 for digest in self.chats),
            "chat_times": self.chat_times,
            "held": self.held,
            "peak": self.peak,
        }

    async def start(self, port: int = 0) -> None:
        """Listen on a loopback port (0: a free one)."""
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        self.lora.add_to(app)
        self.weights.add_to(app)
        app.router.add_get("/health", self._health)
        app.router.add_get("/_stats", self._stats)
        app.router.add_post("/_reset", self._reset)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", port, reuse_address=True, backlog=1024)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening; requests that hang are dropped."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            wanted = json.loads(body)
            asked = _asked(wanted, self.faults.malformed_rate)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._error(400, f"no chat request: {error!r}")
        if self.models and asked.model not in {*self.models, *self.lora.adapters}:
            return self._error(404, f"the model `{asked.model}` does not exist")
        async with self.weights.answering() as held:
            self.held[held][asked.task] += 1
            return await self._answer(request, wanted, asked, body)

    async def _answer(
        self, request: web.Request, wanted: dict[str, Any], asked: Asked, body: bytes
    ) -> web.StreamResponse:
        self.tasks[asked.task] += 1
        self.chats.add(sha256(body).hexdigest())
        self.chat_times[sha256(body).hexdigest()].append(time.time())
        fate, refused = await self._suffer(request, body, asked.task, asked.block("question"))
        if refused is not None:
            return refused
        if fate.malformed:
            asked = _asked(wanted, 1.0)
        digest = sha256(body).hexdigest()
        completion = _completion(wanted, asked, digest)
        if self.signed:
            completion["model"] = f"{asked.model}@{digest}"
        return self._served(body, completion)

    async def _embeddings(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        try:
            wanted = json.loads(body)
            texts = [wanted["input"]] if isinstance(wanted["input"], str) else wanted["input"]
            vectors = [list(vector_of(text)) for text in texts]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return self._error(400, f"no embeddings request: {error!r}")
        self.tasks["embed"] += 1
        _, refused = await self._suffer(request, body, "embed", " ".join(texts))
        if refused is not None:
            return refused
        data = [
            {"object": "embedding", "index": index, "embedding": vector}
            for index, vector in enumerate(vectors)
        ]
        count = sum(len(tokens_of(text)) for text in texts)
        usage = {"prompt_tokens": count, "total_tokens": count}
        reply = {"object": "list", "model": wanted["model"], "data": data, "usage": usage}
        return self._served(body, reply)

    async def _suffer(
        self, request: web.Request, body: bytes, task: str, question: str
    ) -> tuple[Fate, web.Response | None]:
        digest = sha256(body).hexdigest()
        self.asked[digest] += 1
        fate = fate_of(self.faults, digest, self.asked[digest], task, question)
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        try:
            if fate.hang:
                await asyncio.sleep(3_600)
            if fate.sleep_s:
                await asyncio.sleep(fate.sleep_s)
        finally:
            self.in_flight -= 1
        if fate.drop and request.transport is not None:
            request.transport.abort()
            return fate, web.Response(status=500)
        if fate.status != 200:
            return fate, self._error(fate.status, f"scripted failure {fate.status}")
        return fate, None

    def _served(self, body: bytes, reply: dict[str, Any]) -> web.Response:
        self.served[sha256(body).hexdigest()] += 1
        self.statuses[200] += 1
        return web.json_response(reply)

    def _error(self, status: int, message: str) -> web.Response:
        self.statuses[status] += 1
        headers = {"Retry-After": "0"} if status == 429 else {}
        error = {"message": message, "type": "scripted", "code": status}
        return web.json_response({"error": error}, status=status, headers=headers)

    async def _models(self, _: web.Request) -> web.Response:
        names = sorted(self.models) or ["scripted"]
        cards = [{"id": name, "object": "model"} for name in names] + self.lora.cards(names[0])
        return web.json_response({"object": "list", "data": cards})

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(text="")

    async def _stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.stats())

    async def _reset(self, _: web.Request) -> web.Response:
        for counter in (self.asked, self.served, self.tasks, self.statuses):
            counter.clear()
        self.chats.clear()
        self.chat_times.clear()
        self.held.clear()
        self.peak = 0
        return web.Response(text="")


@contextlib.asynccontextmanager
async def serve(
    faults: Faults | None = None, models: Sequence[str] = (), port: int = 0, *, signed: bool = False
) -> AsyncIterator[ScriptedModel]:
    """A server in this process, for as long as the block lasts."""
    server = ScriptedModel(faults, models, signed=signed)
    await server.start(port)
    try:
        yield server
    finally:
        await server.stop()


@contextlib.contextmanager
def spawn(port: int, *options: str) -> Iterator[str]:
    """A server in a process of its own on `port`; its base URL. `options` are command-line ones."""
    command = [sys.executable, "-m", "tests.support.scripted_model", "--port", str(port), *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        _await_health(port, process)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=10)


def stats_of(base_url: str) -> dict[str, Any]:
    """What a running server counted."""
    address = base_url.removesuffix("/v1") + "/_stats"
    with urllib.request.urlopen(address, timeout=10) as reply:
        found: dict[str, Any] = json.load(reply)
    return found


def _await_health(port: int, process: subprocess.Popen[bytes], limit_s: float = 20.0) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"the scripted model ended with {process.returncode}")
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2).close()
            return
        time.sleep(0.05)
    raise TimeoutError(f"the scripted model did not answer on port {port} in {limit_s} s")


def _asked(wanted: dict[str, Any], malformed_rate: float) -> Asked:
    schema = (wanted.get("response_format") or {}).get("json_schema", {}).get("schema")
    return Asked(
        model=wanted["model"],
        messages=tuple((message["role"], message["content"]) for message in wanted["messages"]),
        seed=wanted.get("seed"),
        temperature=wanted.get("temperature", 0.0),
        schema=schema,
        malformed_rate=malformed_rate,
    )


def _completion(wanted: dict[str, Any], asked: Asked, digest: str) -> dict[str, Any]:
    limit = wanted.get("max_completion_tokens") or wanted.get("max_tokens") or 4_096
    sampled = tokens_of(reply_to(asked))
    tokens = sampled[:limit]
    prompt = [token for _, content in asked.messages for token, _ in tokens_of(content)]
    choice: dict[str, Any] = {
        "index": 0,
        "message": {"role": "assistant", "content": "".join(text for _, text in tokens)},
        "finish_reason": "stop" if len(tokens) == len(sampled) else "length",
        "logprobs": None,
    }
    reply: dict[str, Any] = {
        "id": f"chatcmpl-{digest[:24]}",
        "object": "chat.completion",
        "created": 0,
        "model": asked.model,
        "choices": [choice],
        "usage": {
            "prompt_tokens": len(prompt),
            "completion_tokens": len(tokens),
            "total_tokens": len(prompt) + len(tokens),
        },
    }
    if wanted.get("logprobs"):
        choice["logprobs"] = {
            "content": [
                {"token": text, "logprob": logprob_of(text, place), "top_logprobs": []}
                for place, (_, text) in enumerate(tokens)
            ]
        }
    if wanted.get("return_token_ids"):
        reply["prompt_token_ids"] = prompt
        choice["token_ids"] = [token for token, _ in tokens]
    return reply


def _options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A scripted OpenAI-compatible model server.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency", choices=("none", "fixed", "exponential"), default="none")
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--error-rate", type=float, default=0.0)
    parser.add_argument("--busy-rate", type=float, default=0.0)
    parser.add_argument("--drop-rate", type=float, default=0.0)
    parser.add_argument("--hang-rate", type=float, default=0.0)
    parser.add_argument("--malformed-rate", type=float, default=0.08)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signed", action="store_true", help="replies name their requests")
    parser.add_argument("--model", action="append", default=[], help="serve only these names")
    return parser.parse_args(arguments)


async def _main() -> None:
    options = vars(_options())
    port, models, signed = (options.pop(name) for name in ("port", "model", "signed"))
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stopped.set)
    async with serve(Faults(**options), models, port, signed=signed) as server:
        sys.stdout.write(json.dumps({"base_url": server.base_url, "pid": os.getpid()}) + "\n")
        sys.stdout.flush()
        await stopped.wait()


if __name__ == "__main__":
    asyncio.run(_main())

__all__ = ["ScriptedModel", "serve", "spawn", "stats_of"]
