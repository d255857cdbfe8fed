"""Rollouts that stream from a planner while its versions come and go."""

from __future__ import annotations

import asyncio
import hashlib
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

import aiohttp
import msgspec

from mia_events.learning.versions import served_name, version_name
from ops.serving.reconciler import Level, Reconciler
from storage.ports import PolicyRow

__all__ = ["Passes", "Registry", "Rollouts", "Store", "Told", "p99"]

_TURNS: Final = 3
_AGAIN_S: Final = 0.2
_UNKNOWN: Final = 404
_OK: Final = 200
_PATIENCE_S: Final = 120.0
_PROMPT: Final = "Plan, in a few steps, how to find out where river number {0} begins."


class Store:
    """Artifacts in memory."""

    def __init__(self) -> None:
        self._data: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        """See the port."""
        sha = hashlib.sha256(data).hexdigest()
        self._data[sha] = data
        return sha

    async def get(self, sha256: str) -> bytes:
        """See the port."""
        return self._data[sha256]


class Registry:
    """Versions of one run, by what servers call them. One is wanted while it serves, is new, or a
    rollout holds it.
    """

    def __init__(self) -> None:
        self.serving = ""
        self._new: set[str] = set()
        self._rows: dict[str, PolicyRow] = {}
        self._held: Counter[str] = Counter()

    def add(self, sha256: str) -> str:
        """Register the next version, a candidate; its name at servers."""
        number = len(self._rows) + 1
        row = PolicyRow(
            run_no=1,
            number=number,
            name=version_name(number),
            parent=version_name(number - 1),
            batch=number - 1,
            state="candidate",
            adapter_sha256=sha256,
            optimizer_sha256=sha256,
            data_sha256=sha256,
            record=b"{}",
            event_id=UUID(int=number),
            at=datetime.now(UTC),
        )
        name = served_name(row.name, sha256)
        self._rows[name] = row
        self._new.add(name)
        return name

    def promote(self, name: str) -> None:
        """Let rollouts that begin from here on be served by a version."""
        self._new.discard(name)
        self.serving = name

    def hold(self) -> str:
        """A rollout begins; its version."""
        self._held[self.serving] += 1
        return self.serving

    def let_go(self, name: str) -> None:
        """A rollout ends."""
        self._held[name] -= 1

    async def list(self, run_no: int) -> tuple[PolicyRow, ...]:
        """See the port."""
        return tuple(row for row in self._rows.values() if row.run_no == run_no)

    async def get(self, run_no: int, name: str) -> PolicyRow | None:
        """See the port."""
        return next((row for row in await self.list(run_no) if row.name == name), None)

    async def wanted(self) -> tuple[PolicyRow, ...]:
        """See the port."""
        names = {self.serving, *self._new, *(+self._held)} - {""}
        return tuple(self._rows[name] for name in sorted(names))

    async def on_base(self) -> tuple[int, ...]:
        """See the port: a server of adapters has the base model always."""
        return ()

    @asynccontextmanager
    async def levelling(self) -> AsyncIterator[bool]:
        """See the port: there is one reconciler."""
        yield True


class Passes:
    """A reconciler that works on, and when it changed what a server has: [begin, end] of passes
    with a load or an unload, on the clock `time.monotonic`.
    """

    def __init__(self, reconciler: Reconciler, every_s: float) -> None:
        self._reconciler, self._every_s = reconciler, every_s
        self.changes: list[tuple[float, float]] = []
        self.loads = self.unloads = 0
        self._last: Level | None = None

    async def run(self) -> None:
        """Pass after pass until cancelled."""
        while True:
            began = time.monotonic()
            self._last = await self._reconciler.once()
            moved = [(len(one.loaded), len(one.unloaded)) for one in self._last.replicas]
            self.loads += sum(loads for loads, _ in moved)
            self.unloads += sum(unloads for _, unloads in moved)
            if any(map(any, moved)):
                self.changes.append((began, time.monotonic()))
            await asyncio.sleep(self._every_s)

    async def until_served(self, names: Iterable[str]) -> None:
        """Wait until the last pass left every server with these versions."""
        wanted = set(names)
        async with asyncio.timeout(_PATIENCE_S):
            while self._last is None or not all(  # noqa: ASYNC110 - passes tell nobody
                wanted <= set(one.serves) for one in self._last.replicas
            ):
                await asyncio.sleep(0.02)

    def within(self, moment: float, settle_s: float) -> bool:
        """Tell whether a moment lies in a change, or soon after."""
        return any(began <= moment <= end + settle_s for began, end in self.changes)


class Told(msgspec.Struct):
    """What the streams came to. `waits` are requests that were made again because their version
    was not served yet; `gaps` are (when it ended, seconds) between tokens of one reply.
    """

    rollouts: int = 0
    replies: int = 0
    tokens: int = 0
    failed: int = 0
    aborted: int = 0
    changed_version: int = 0
    waits: int = 0
    gaps: list[tuple[float, float]] = []
    problems: list[str] = []


class Rollouts:
    """Rollouts one after the other on so many streams; each keeps its version for all its turns.

    `tokens` is the mean length of a turn.
    """

    def __init__(self, base_url: str, registry: Registry, *, tokens: int) -> None:
        self._url, self._registry, self._tokens = base_url, registry, tokens
        self._ending = asyncio.Event()
        self.told = Told()

    async def run(self, streams: int) -> Told:
        """Stream until `end`; the rollouts that are under way then end as they would."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as session:
            await asyncio.gather(*(self._stream(session, number) for number in range(streams)))
        return self.told

    def end(self) -> None:
        """Begin no further rollout."""
        self._ending.set()

    async def _stream(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._ending.is_set():
            version = self._registry.hold()
            try:
                for turn in range(_TURNS):
                    what = f"{number}.{turn}"
                    await self._turn(session, version, what, self._length(number))
            except (aiohttp.ClientError, TimeoutError) as error:
                self.told.failed += 1
                self.told.problems.append(f"{type(error).__name__}: {error}")
            finally:
                self._registry.let_go(version)
            self.told.rollouts += 1

    def _length(self, number: int) -> int:
        """Half to one and a half of the mean: so streams do not begin and end together."""
        return self._tokens // 2 + (number * 7) % (self._tokens + 1)

    async def _turn(
        self, session: aiohttp.ClientSession, version: str, what: str, tokens: int
    ) -> None:
        body = {
            "model": version,
            "messages": [{"role": "user", "content": _PROMPT.format(what)}],
            "max_tokens": tokens,
            "ignore_eos": True,
            "temperature": 1.0,
            "stream": True,
        }
        while True:
            async with session.post(f"{self._url}/chat/completions", json=body) as answer:
                if answer.status == _OK:
                    await self._read(answer, version)
                    return
                if answer.status != _UNKNOWN:
                    self.told.failed += 1
                    self.told.problems.append(f"{answer.status}: {(await answer.text())[:200]}")
                    return
            self.told.waits += 1
            await asyncio.sleep(_AGAIN_S)

    async def _read(self, answer: aiohttp.ClientResponse, version: str) -> None:
        before: float | None = None
        finish, models, done = None, set(), False
        async for line in answer.content:
            text = line.decode().strip()
            if not text.startswith("data:"):
                continue
            done = text == "data: [DONE]"
            chunk: dict[str, Any] = {} if done else msgspec.json.decode(text[5:])
            models |= {chunk["model"]} if "model" in chunk else set()
            for choice in chunk.get("choices", ()):
                finish = choice.get("finish_reason") or finish
                if choice["delta"].get("content"):
                    now = time.monotonic()
                    if before is not None:
                        self.told.gaps.append((now, now - before))
                    before = now
                    self.told.tokens += 1
        self.told.replies += 1
        self.told.aborted += not (done and finish == "length")
        self.told.changed_version += models != {version}


def p99(values: Iterable[float]) -> float:
    """The 99th percentile: the least value that 99 % are not above; 0 for none."""
    ordered = sorted(values)
    return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0
