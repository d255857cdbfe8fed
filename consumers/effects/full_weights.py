"""Requests to servers of which each holds all weights of one planner version at a time.

Which one holds which changes while questions are answered. A server is asked what it holds before a
request and after it: a reply counts only if the same load of the same weights was there all along.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Final

import msgspec
import structlog

from consumers.effects.model_client import ModelClient, NotServed, jittered
from mia_events.learning.versions import held_by, is_same_load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from consumers.effects.model_client import Endpoint
    from mia_events.effects import Call, ModelReply

_log = structlog.get_logger(__name__)
#: Until a version may have come to a server.
_LOADING_S: Final = 1.0


class FullWeights:
    """The planner's servers, asked by version."""

    def __init__(self, models: ModelClient, servers: Iterable[Endpoint]) -> None:
        self._models, self._servers = models, tuple(servers)
        # A place first, then the label: what waits for a place must not go by an old one.
        self._places = asyncio.Semaphore(min(server.concurrency for server in self._servers))

    async def chat(self, call: Call, *, held: str, model: str) -> ModelReply:
        """Answer a call by a server that holds the weights `held`, whose own name for whatever it
        holds is `model`. The reply names the weights.

        Raises:
            NotServed: no server that answers holds them now, or they went while it answered.
        """
        request = msgspec.structs.replace(call, model=model)
        async with self._places:
            return await self._said(request, held)

    async def _said(self, request: Call, held: str) -> ModelReply:
        chance = random.sample(self._servers, len(self._servers))
        for server in chance:
            before = await self._models.weight_label(server)
            if held_by(before) != held:
                continue
            reply = await self._models.chat(request, at=server)
            if is_same_load(before, await self._models.weight_label(server)):
                return msgspec.structs.replace(reply, model=held)
            _log.info("a reply came from weights that were exchanged", server=server.base_url)
        raise NotServed(f"no server of the planner holds {held} now", jittered(_LOADING_S))


__all__ = ["FullWeights"]
