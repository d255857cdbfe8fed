"""A server that exchanges all its weights as vLLM does: its routes and statuses, no model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.loopback import on_loopback

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
        return web.json_response({"weight_version": self.label})

    async def _paused(self, _: web.Request) -> web.Response:
        return web.json_response({"is_paused": self.is_paused})

    async def _version(self, request: web.Request) -> web.Response:
        self.label = (await request.json())["new_version"]
        return web.json_response({"success": True, "new_version": self.label})

    async def _pause(self, request: web.Request) -> web.Response:
        self._going.clear()
        if request.query.get("mode") == "wait":
            await self._idle.wait()
        return web.json_response({"status": "paused"})

    async def _resume(self, _: web.Request) -> web.Response:
        self._going.set()
        return web.json_response({"status": "resumed"})

    async def _rpc(self, request: web.Request) -> web.Response:
        wish: dict[str, Any] = await request.json()
        if wish["method"] != "reload_weights":
            return web.json_response({"error": f"no method {wish['method']}"}, status=500)
        if not self.is_paused or self._running:
            raise RuntimeError("weights are exchanged under running requests")
        await asyncio.sleep(self.slow_s)
        if self.broken:
            return web.Response(status=500, text="weights of another shape")
        self.held = Path(wish["kwargs"]["weights_path"]).name
        self.loads.append(self.held)
        return web.json_response({"results": [None]})


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
            error = {"message": f"The model `{body['model']}` is not here."}
            return web.json_response({"error": error}, status=404)
        async with self.answering() as held:
            self.answered_by.append(held)
        message = {"role": "assistant", "content": f"said by {held}"}
        choice = {"message": message, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [choice]})


@asynccontextmanager
async def weights_server(server: WeightsServer) -> AsyncIterator[WeightsServer]:
    """Serve on loopback; `server.url` ends in /v1."""
    async with on_loopback(server.application()) as server.url:
        yield server
