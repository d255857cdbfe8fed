"""A server that takes adapters as vLLM does: its routes, statuses and words, no model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.support.loopback import on_loopback

__all__ = ["LoraRoutes", "LoraServer", "lora_server"]


class LoraRoutes:
    """Which adapters are served, and which loads and unloads were asked for."""

    def __init__(self) -> None:
        self.adapters: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []

    def add_to(self, app: web.Application) -> None:
        """Let an application take adapters."""
        app.router.add_post("/v1/load_lora_adapter", self._load)
        app.router.add_post("/v1/unload_lora_adapter", self._unload)

    def cards(self, base: str) -> list[dict[str, Any]]:
        """What a list of models says of them."""
        return [
            {"id": name, "object": "model", "root": path, "parent": base}
            for name, path in self.adapters.items()
        ]

    async def _load(self, request: web.Request) -> web.Response:
        wish = await request.json()
        name, path = wish["lora_name"], wish["lora_path"]
        self.asked.append(("load", name))
        if name in self.adapters:
            return _error(400, f"The lora adapter '{name}' has already been loaded.")
        if not (Path(path) / "adapter_config.json").exists():
            return _error(404, f"The lora adapter '{name}' cannot be found in {path}.")
        self.adapters[name] = path
        return web.Response(text=f"Success: LoRA adapter '{name}' added successfully.")

    async def _unload(self, request: web.Request) -> web.Response:
        name = (await request.json())["lora_name"]
        self.asked.append(("unload", name))
        if name not in self.adapters:
            return _error(404, f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        return web.Response(text=f"Success: LoRA adapter '{name}' removed successfully.")


class LoraServer(LoraRoutes):
    """A server of one model and of adapters. `updating` False: it takes none at run time."""

    def __init__(self, base: str = "base-model", *, updating: bool = True) -> None:
        super().__init__()
        self.base, self.updating = base, updating
        self.chats: list[dict[str, Any]] = []
        self.url = ""

    def application(self) -> web.Application:
        """Return the routes."""
        app = web.Application()
        app.router.add_get("/v1/models", self._models)
        app.router.add_post("/v1/chat/completions", self._chat)
        if self.updating:
            self.add_to(app)
        return app

    async def _models(self, _: web.Request) -> web.Response:
        base = {"id": self.base, "object": "model", "root": self.base, "parent": None}
        return web.json_response({"object": "list", "data": [base, *self.cards(self.base)]})

    async def _chat(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.chats.append(body)
        if body["model"] not in {self.base, *self.adapters}:
            return _error(404, f"The model `{body['model']}` does not exist.")
        message = {"role": "assistant", "content": f"said by {body['model']}"}
        choice = {"message": message, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [choice]})


@asynccontextmanager
async def lora_server(server: LoraServer, port: int = 0) -> AsyncIterator[LoraServer]:
    """Serve on loopback; `server.url` ends in /v1."""
    async with on_loopback(server.application(), port) as server.url:
        yield server


def _error(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message, "code": status}}, status=status)
