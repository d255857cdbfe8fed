"""learn-5: versions are swapped under streams of a real vLLM, and come back after it was killed."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

import aiohttp

from consumers.effects.model_client import Endpoint
from ops.embedded.state import Home, free_port
from ops.embedded.supervisor import Supervisor
from ops.embedded.vllm_server import Adapters, VllmServer, chat_server
from ops.environments import ServeEnvironment, find_serve_environment, serve_folder
from ops.errors import Refused
from ops.evidence.adapters import random_adapter, shapes_of
from ops.evidence.record import Claim, Evidence
from ops.evidence.swaps import Passes, Registry, Rollouts, Store, Told, p99
from ops.serving.folders import VersionFolders
from ops.serving.placement import Everywhere
from ops.serving.reconciler import Reconciler
from ops.serving.replica import VllmReplica

__all__ = ["TITLE", "evidence"]

TITLE: Final = "versions are swapped under 16 streams of vLLM; killed, it has them back by itself"
_ROOM: Final = 12
_RANK: Final = 16
_POLL_S: Final = 0.5
#: What a load does to tokens may show a little after it.
_SETTLE_S: Final = 0.5
_TOKENS: Final = 24  # of a turn, on average
_PAUSE_S: Final = 4.0
#: By how much a swap may stretch the slowest gaps, and how long versions may take to come back.
_SLOWER: Final = 2.0
_BACK_S: Final = 30.0


async def evidence(*, short: bool = False) -> Evidence:
    """Swap under load, then kill."""
    streams, swaps = (4, 3) if short else (16, 20)
    environment = find_serve_environment(serve_folder())
    if environment is None:
        raise Refused("there is no vLLM", "Make it with `make env-serve`.")
    async with _lab(environment) as lab:
        swapped = await lab.swap(streams, swaps)
        killed = await lab.kill()
    claims = (*_under_load(swapped, swaps), *_after_the_kill(killed))
    return Evidence(figures={"swaps": swapped, "kill": killed}, claims=claims)


class _Lab:
    """A supervised vLLM, a registry, and a reconciler that keeps the one level with the other."""

    def __init__(self, supervisor: Supervisor, server: VllmServer) -> None:
        self._supervisor, self._server = supervisor, server
        self.store, self.registry = Store(), Registry()
        self._session = aiohttp.ClientSession()
        self._replica = VllmReplica(Endpoint(base_url=server.base_url))

    @asynccontextmanager
    async def levelled(self, folder: Path) -> AsyncIterator[None]:
        """Keep the server level meanwhile, as the stack's own process does."""
        folders = VersionFolders(self.store, folder)
        async with self._session, self._replica:
            reconciler = Reconciler(self.registry, folders, [self._replica], Everywhere(_ROOM))
            self._passes = Passes(reconciler, _POLL_S)
            working = asyncio.create_task(self._passes.run())
            try:
                yield
            finally:
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working

    async def version(self) -> str:
        """Register the next version and wait until it is served; its name there."""
        layers, shapes = shapes_of(Path(self._server.model))
        seed = len(await self.registry.list(1)) + 1
        adapter = await asyncio.to_thread(random_adapter, seed, layers, shapes, rank=_RANK)
        name = self.registry.add(await self.store.put(adapter))
        await self._passes.until_served([name])
        return name

    async def swap(self, streams: int, swaps: int) -> dict[str, Any]:
        """Let streams run, and promote version after version meanwhile."""
        self.registry.promote(await self.version())
        await self._warm_up(streams)
        before = self._passes.loads
        rollouts = Rollouts(self._server.base_url, self.registry, tokens=_TOKENS)
        began = time.monotonic()
        running = asyncio.create_task(rollouts.run(streams))
        for _ in range(swaps):
            await asyncio.sleep(_PAUSE_S)
            await self._room()
            self.registry.promote(await self.version())
        await asyncio.sleep(_PAUSE_S)
        rollouts.end()
        told = await running
        return {
            "streams": streams,
            "seconds": round(time.monotonic() - began, 1),
            "loads": self._passes.loads - before,
            "unloads": self._passes.unloads,
            **_counted(told),
            **_gaps(told, self._passes),
        }

    async def _warm_up(self, streams: int) -> None:
        """One rollout on each stream: what a server does for the first time is slow once."""
        first = Rollouts(self._server.base_url, self.registry, tokens=_TOKENS)
        asyncio.get_running_loop().call_later(1.0, first.end)
        await first.run(streams)

    async def _room(self) -> None:
        """Wait until one more version fits: rollouts of old ones end, as pacing would have it."""
        while len(await self.registry.wanted()) >= _ROOM:  # noqa: ASYNC110 - rollouts tell nobody
            await asyncio.sleep(0.1)

    async def kill(self) -> dict[str, Any]:
        """Kill -9 vLLM; what comes back, how soon, and with the same weights."""
        names = [self.registry.hold(), await self.version()]
        before = [await self._said(name) for name in names]
        child = self._supervisor.child(self._server.name)
        child.ready.clear()
        os.kill(child.pid, signal.SIGKILL)
        killed = time.monotonic()
        await child.ready.wait()
        ready = time.monotonic()
        while not set(names) <= await self._replica.present():  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0.05)
        served = time.monotonic()
        return {
            "versions": names,
            "restart_s": round(ready - killed, 1),
            "served_after_ready_s": round(served - ready, 2),
            "same_tokens": before == [await self._said(name) for name in names],
        }

    async def _said(self, name: str) -> list[int]:
        """The tokens of a greedy reply."""
        message = {"role": "user", "content": "Plan a walk through a town."}
        body = {
            "model": name,
            "messages": [message],
            "max_tokens": _TOKENS,
            "temperature": 0,
            "return_token_ids": True,
        }
        url = f"{self._server.base_url}/chat/completions"
        async with self._session.post(url, json=body, raise_for_status=True) as answer:
            tokens: list[int] = (await answer.json())["choices"][0]["token_ids"]
            return tokens


@asynccontextmanager
async def _lab(environment: ServeEnvironment) -> AsyncIterator[_Lab]:
    with tempfile.TemporaryDirectory(prefix="mia-learn5-") as folder:
        home = Home(Path(folder) / "home")
        adapters = Adapters(_ROOM, _RANK)
        server = chat_server(environment, free_port(set()), environment.cache, adapters=adapters)
        with home.locked():
            supervisor = Supervisor(home, [server.spec()])
            try:
                await supervisor.start()
                lab = _Lab(supervisor, server)
                async with lab.levelled(Path(folder) / "adapters"):
                    yield lab
            finally:
                await supervisor.stop()


def _counted(told: Told) -> dict[str, Any]:
    names = ("rollouts", "replies", "tokens", "failed", "aborted", "changed_version", "waits")
    return {name: getattr(told, name) for name in names} | {"problems": told.problems[:5]}


def _gaps(told: Told, passes: Passes) -> dict[str, Any]:
    """Seconds between tokens of one reply, in windows (a pass that loads or unloads, and a little
    after) and outside them.
    """
    sides: dict[str, list[float]] = {"in": [], "outside": []}
    for moment, seconds in told.gaps:
        sides["in" if passes.within(moment, _SETTLE_S) else "outside"].append(seconds)
    lengths = [end - began for began, end in passes.changes]
    found: dict[str, Any] = {"windows": len(lengths), "pass_mean_s": round(fmean(lengths), 3)}
    for side, gaps in sides.items():
        found |= {
            f"gaps_{side}": len(gaps),
            f"p50_{side}_s": round(median(gaps), 3) if gaps else None,
            f"p99_{side}_s": round(p99(gaps), 3),
            f"max_{side}_s": round(max(gaps, default=0.0), 3),
        }
    return found


def _under_load(told: dict[str, Any], swaps: int) -> tuple[Claim, ...]:
    return (
        Claim(
            f"{told['loads']} versions were loaded under {told['streams']} streams",
            told["loads"] == swaps,
        ),
        Claim(
            f"of {told['replies']} replies {told['failed']} failed, {told['aborted']} were aborted",
            told["replies"] > 0 and told["failed"] == told["aborted"] == 0,
        ),
        Claim(
            f"none of {told['rollouts']} rollouts changed its version",
            told["rollouts"] > 0 and told["changed_version"] == 0,
        ),
        Claim(
            f"the 99th percentile of the gap between tokens is {told['p99_in_s']} s in swap "
            f"windows, {told['p99_outside_s']} s outside",
            told["gaps_in"] > 0 and told["p99_in_s"] <= _SLOWER * told["p99_outside_s"],
        ),
    )


def _after_the_kill(told: dict[str, Any]) -> tuple[Claim, ...]:
    return (
        Claim(
            f"vLLM was killed and answered again after {told['restart_s']} s; its versions were "
            f"served {told['served_after_ready_s']} s later, by themselves",
            told["served_after_ready_s"] <= _BACK_S,
        ),
        Claim("they said the same as before, token for token", told["same_tokens"]),
    )
