"""A server of the planner that holds all weights of one version at a time, by vLLM's routes for
reinforcement learning (started with ``VLLM_SERVER_DEV_MODE=1``).

A load lets requests that run come to their end, keeps others waiting, and drops what was cached
of the old weights. The server's label says what it holds since when, so that whoever asks can tell
what answered; while weights are on their way it says so, and nobody is to ask.

Those routes ask for no key: who reaches them may load what he likes.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from consumers.effects.model_client import Endpoint, WeightInfo
from mia_events.learning.versions import held_by, leaving, load_label
from ops.serving.routes import Away, Declined, Routes, said

__all__ = ["FullWeightsReplica"]

_ANSWER_S: Final = 5.0
#: Until requests that run have come to their end.
_DRAIN_S: Final = 600.0
#: Until weights are read.
_LOAD_S: Final = 600.0
_NOTHING: Final = "nothing"
_LOADING: Final = "loading"
_SWITCHED_OFF: Final = "it takes no weights while it runs: start it with VLLM_SERVER_DEV_MODE=1"

_T = TypeVar("_T")
_V = TypeVar("_V")


class _Pause(msgspec.Struct):
    is_paused: bool


class FullWeightsReplica(Routes):
    """A vLLM server behind the port `Replica`. Use as an async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint, endpoint.root)

    async def present(self) -> frozenset[str]:
        """See the port: one version at most. One whose load was left half done is not there."""
        label = await self._label()
        held = held_by(label)
        if held is None or await self._is_paused():
            return frozenset()
        return frozenset({held})

    async def load(self, name: str, folder: Path) -> None:
        """See the port: it takes the place of what was there. Nobody else is to load meanwhile;
        whoever finds that another did leaves a server that answers nobody.
        """
        if name in await self.present():
            return
        if not await asyncio.to_thread(_is_checkpoint, folder):
            raise Declined(f"{self.address} did not load {name}: {folder} is no checkpoint")
        number = secrets.token_hex(4)
        loading = f"{_LOADING}+{number}"
        before = await self._label()
        if held_by(before):
            await self._set_label(leaving(before))
        try:
            await self._do("pause?mode=wait", None, _DRAIN_S)
            await self._set_label(loading)
            wish = {"method": "reload_weights", "kwargs": {"weights_path": str(folder)}}
            await self._do("collective_rpc", wish, _LOAD_S)
            if await self._label() != loading:
                await self._set_label(_NOTHING)
                raise Declined(f"{self.address}: another process loads weights too")
            await self._set_label(load_label(name, number))
        finally:
            await self._do("resume", None, _ANSWER_S)

    async def unload(self, name: str) -> None:
        """See the port: its weights stay, and answer nobody."""
        if name in await self.present():
            await self._set_label(_NOTHING)

    async def _label(self) -> str:
        return await self._told("weight_info", WeightInfo, lambda told: told.weight_version)

    async def _set_label(self, label: str) -> None:
        await self._do("update_weight_version", {"new_version": label}, _ANSWER_S)

    async def _is_paused(self) -> bool:
        return await self._told("is_paused", _Pause, lambda told: told.is_paused)

    async def _told(self, path: str, kind: type[_T], read: Callable[[_T], _V]) -> _V:
        status, body = await self.ask("GET", path, None, _ANSWER_S)
        if status == HTTPStatus.NOT_FOUND:
            raise Declined(f"{self.address}: {_SWITCHED_OFF}")
        try:
            return read(msgspec.json.decode(body, type=kind))
        except msgspec.DecodeError as error:
            raise Away(f"{self.address}: {path} answered {status}: {error}") from error

    async def _do(self, path: str, wish: dict[str, Any] | None, seconds: float) -> None:
        status, body = await self.ask("POST", path, wish, seconds)
        if status == HTTPStatus.NOT_FOUND:
            raise Declined(f"{self.address}: {_SWITCHED_OFF}")
        if status != HTTPStatus.OK:
            raise Declined(f"{self.address}: {path} answered {status}: {said(body)}")


def _is_checkpoint(folder: Path) -> bool:
    """Tell before anything is stopped for it."""
    return (folder / "config.json").exists() and any(folder.glob("*.safetensors"))
