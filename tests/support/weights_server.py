"""A server that exchanges all its weights as vLLM does: its routes and statuses, no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

__all__ = ["WeightsRoutes", "WeightsServer", "weights_server"]


class WeightsRoutes:
    """What is held is the folder that was loaded last. While it is paused, requests wait."""

    def __init__(self) -> None:
        self.loads: list[str] = []
        self.broken = False
        self.slow_s = 0.0  #: of a reply, and of a load
        self._running = 0
        self._idle, self._going = asyncio.Event(), asyncio.Event()
        self._idle.set()
        self.restart()

    def restart(self) -> None:
        """Forget everything, as a new process does."""
        self.label, self.held = "default", "as it was started"
        self._going.set()

    def pause(self) -> None:
        """Be paused, by whoever died after it."""
        self._going.clear()

    @property
    def is_paused(self) -> bool:
        """Whether requests wait."""
        return not self._going.is_set()

    def add_to(self, app: web.Application) -> None:
        """Let an application exchange weights."""
        app.router.add_get("/weight_info", self._info)
        app.router.add_get("/is_paused", self._paused)
        app.router.add_post("/update_weight_version", self._version)
        app.router.add_post("/pause", self._pause)
        app.router.add_post("/resume", self._resume)
        app.router.add_post("/collective_rpc", self._rpc)

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[str]:
        """A request is answered meanwhile, by these weights."""
        await self._going.wait()
        self._running += 1
        self._idle.clear()
        try:
            yield self.held
            await asyncio.sleep(self.slow_s)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _info(self, _: web.Request) -> web.Response:
        return _json({"weight_version": self.label})

    async def _paused(self, _: web.Request) -> web.Response:
        return _json({"is_paused": self.is_paused})

    async def _version(self, request: web.Request) -> web.Response:
        self.label = (await request.json())["new_version"]
        return _json({"success": True, "new_version": self.label})

    async def _pause(self, request: web.Request) -> web.Response:
        self._going.clear()
        if request.query.get("mode") == "wait":
            await self._idle.wait()
        return _json({"status": "paused"})

    async def _resume(self, _: web.Request) -> web.Response:
        self._going.set()
        return _json({"status": "resumed"})

    async def _rpc(self, request: web.Request) -> web.Response:
        wish: dict[str, Any] = await request.json()
        if wish["method"] != "reload_weights":
            return _json({"error": f"no method {wish['method']}"}, 500)
        if not self.is_paused or self._running:
            raise RuntimeError("weights are exchanged under running requests")
        await asyncio.sleep(self.slow_s)
        if self.broken:
            return web.Response(status=500, text="weights of another shape")
        self.held = Path(wish["kwargs"]["weights_path"]).name
        self.loads.append(self.held)
        return _json({"results": [None]})


class WeightsServer(WeightsRoutes):
    """A server of one model. Replies say which weights they are of. `routes` False: it was started
    without them.
    """

    def __init__(self, base: str = "base-model", *, routes: bool = True) -> None:
        super().__init__()
        self.base, self.routes = base, routes
        self.url = ""
        self.answered_by: list[str] = []

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        if self.routes:
            self.add_to(app)
        return app

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        if body["model"] != self.base:
            return _json({"error": {"message": f"The model `{body['model']}` is not here."}}, 404)
        async with self.answering() as held:
            self.answered_by.append(held)
        message = {"role": "assistant", "content": f"said by {held}"}
        choice = {"message": message, "finish_reason": "stop"}
        return _json({"model": body["model"], "choices": [choice]})


@asynccontextmanager
async def weights_server(server: WeightsServer) -> AsyncIterator[WeightsServer]:
    """Serve on loopback; `server.url` ends in /v1."""
    runner = web.AppRunner(server.application(), shutdown_timeout=0.2)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
    finally:
        await runner.cleanup()


def _json(content: object, status: int = 200) -> web.Response:
    body = msgspec.json.encode(content)
    return web.Response(body=body, status=status, content_type="application/json")
