"""What the pipeline gets from a model server, against what the server gives to anyone.

The pipeline answers questions on real vLLM; then a plain load generator sends the same chat
requests, as they were recorded, at the same concurrency to the same server, started afresh so that
its prefix cache is as empty as before. Tokens are counted by the server itself.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import msgspec

from consumers.effects.openai_wire import chat_request
from consumers.runner.drive import Ask
from consumers.stages import STAGES
from mia_events.effects import Call
from ops.connect import connections
from ops.embedded import report
from ops.embedded.state import Home
from ops.evidence.hits import hit
from ops.evidence.streaming import RUN, benchmark_file, facts
from ops.evidence.user import User
from ops.models import ports_in_use
from ops.replay import replay
from ops.settings import Settings
from storage.postgres.replay import RecordedEvent, read_recording

__all__ = ["Ceiling", "Rate", "ceiling"]

_CHILD: Final = "vllm-chat"
_FIRST, _LAST = 0.1, 0.8  #: of the work: neither the start nor the tail is measured
_LIMIT_S: Final = 3_600.0
_POLL_S: Final = 0.5
_ENDED: Final = "SELECT ended FROM run WHERE name = $1"
_COUNTER: Final = re.compile(
    r"^vllm:(prompt|generation)_tokens_total\{[^}]*\} ([\d.e+]+)$", re.MULTILINE
)


class Rate(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that a server took in and gave out in a window of `seconds`."""

    seconds: float
    prompt_tokens: int
    generated_tokens: int

    @property
    def generated_per_s(self) -> float:
        """Tokens sampled per second."""
        return self.generated_tokens / self.seconds

    @property
    def all_per_s(self) -> float:
        """Tokens read and sampled per second."""
        return (self.prompt_tokens + self.generated_tokens) / self.seconds


class Ceiling(msgspec.Struct, frozen=True, kw_only=True):
    """Both rates at one `concurrency`, and the questions that the pipeline answered per second."""

    questions: int
    requests: int
    concurrency: int
    questions_per_s: float
    pipeline: Rate
    load_generator: Rate

    @property
    def share(self) -> float:
        """What of the server's rate the pipeline reaches: all tokens, read and sampled."""
        return self.pipeline.all_per_s / self.load_generator.all_per_s


async def ceiling(someone: User, questions: int, concurrency: int) -> Ceiling:
    """Measure both on a user's running stack with vLLM."""
    port = ports_in_use(Home(someone.home))["chat"]
    live = ("--rollouts", "1", "--max-turns", "4", "--max-in-flight", str(concurrency))
    await someone.mia("run", "create", RUN, *live)
    began = time.monotonic()
    await someone.mia("ingest", str(benchmark_file()), "--run", RUN, "--limit", str(questions))
    pipeline = await _window(port, _ended(someone, questions))
    await someone.mia("run", "close", RUN)
    await someone.until(RUN, lambda run: bool(run["state"] == "ended"), limit_s=_LIMIT_S)
    seconds = time.monotonic() - began
    bodies = await _requests(someone)
    await _afresh(someone, port)
    load = _Load(f"http://127.0.0.1:{port}/v1/chat/completions", bodies, concurrency)
    sending = asyncio.ensure_future(load.send())
    plain = await _window(port, load.done)
    await sending
    return Ceiling(
        questions=questions,
        requests=len(bodies),
        concurrency=concurrency,
        questions_per_s=round(questions / seconds, 4),
        pipeline=pipeline,
        load_generator=plain,
    )


def _ended(someone: User, questions: int) -> Callable[[], Awaitable[float]]:
    async def share() -> float:
        (row,) = await facts(someone, _ENDED, RUN)
        return float(row["ended"]) / questions

    return share


async def _window(port: int, share: Callable[[], Awaitable[float]]) -> Rate:
    """Count tokens from when the first tenth of the work is done until four fifths are."""
    await _reached(share, _FIRST)
    began, first = time.monotonic(), await _tokens(port)
    await _reached(share, _LAST)
    last, ended = await _tokens(port), time.monotonic()
    return Rate(
        seconds=round(ended - began, 2),
        prompt_tokens=int(last["prompt"] - first["prompt"]),
        generated_tokens=int(last["generation"] - first["generation"]),
    )


async def _reached(share: Callable[[], Awaitable[float]], wanted: float) -> None:
    while await share() < wanted:  # noqa: ASYNC110 - what is waited for is not of this process
        await asyncio.sleep(_POLL_S)


async def _tokens(port: int) -> dict[str, float]:
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as reply,
    ):
        return {name: float(value) for name, value in _COUNTER.findall(await reply.text())}


async def _requests(someone: User) -> list[dict[str, Any]]:
    """Return every chat request of the run, in the order in which they were due."""
    dsn = connections(Settings(home=str(someone.home))).dsn("mia_audit")
    found: list[tuple[Any, dict[str, Any]]] = []

    def heard(command: RecordedEvent, ask: Ask) -> None:
        if isinstance(ask.effect, Call):
            found.append((command.at, chat_request(ask.effect)))

    replay(await read_recording(dsn, RUN), STAGES, heard=heard)
    return [body for _, body in sorted(found, key=lambda one: one[0])]


async def _afresh(someone: User, port: int) -> None:
    """Kill the server; its supervisor starts it again, with nothing cached."""
    old = hit(someone.home, _CHILD)
    async with aiohttp.ClientSession() as session:
        while True:
            await asyncio.sleep(1)
            now = report.read(Home(someone.home)).child(_CHILD).pid
            try:
                async with session.get(f"http://127.0.0.1:{port}/health") as reply:
                    if reply.status == 200 and now not in (old, 0):  # noqa: PLR2004
                        return
            except aiohttp.ClientError:
                continue


class _Load:
    """So many requests in flight until all are answered; nothing else."""

    def __init__(self, url: str, bodies: list[dict[str, Any]], concurrency: int) -> None:
        self._url, self._bodies, self._concurrency = url, bodies, concurrency
        self._answered = 0

    async def done(self) -> float:
        """Say how much of the work is done."""
        return self._answered / len(self._bodies)

    async def send(self) -> None:
        """Send everything."""
        waiting = iter(self._bodies)
        timeout = aiohttp.ClientTimeout(total=_LIMIT_S)
        async with aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session:
            senders = (self._sender(session, waiting) for _ in range(self._concurrency))
            await asyncio.gather(*senders)

    async def _sender(self, session: aiohttp.ClientSession, waiting: Any) -> None:  # noqa: ANN401
        for body in waiting:
            async with session.post(self._url, json=body) as reply:
                await reply.read()
            self._answered += 1
