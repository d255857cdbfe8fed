"""One client for OpenAI-compatible endpoints, a role per endpoint.

What goes wrong is classified by who is to blame, and repeated where that costs least:

- a connection that broke before anything came back is made again here, at once, a few times:
  a completion without a recorded reply may be repeated;
- an endpoint that is away (refused, no connection in time) or busy (408, 425, 429, 503) raises
  `Late`: the command gives its slot back and comes again, for as long as it takes;
- a fault of the server (500 and above, no answer in time, a reply that cannot be read) raises
  `Transient`: the command is retried with growing delays, and dead-lettered in the end;
- a planner's version that is registered and not (yet) served raises `Late`: it will be, soon;
- a request that can never be answered (an unknown model, a refused key) raises `Poison`.

Delays are jittered, so that what failed together does not come back together.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, Final, Self

import aiohttp
import msgspec
import structlog

from consumers.effects.openai_wire import chat_request, read_completion, read_embeddings
from mia_events.effects import ModelReply
from mia_events.quoting import clean
from mia_events.steps import Late, Poison, Transient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mia_events.effects import Call, Embed, Vectors

_log = structlog.get_logger(__name__)

_BUSY: Final = frozenset({408, 425, 429, 503})
_CLIENT_ERROR: Final = 400
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500
_RETRY_S: Final = 2.0
_MOST_RETRY_S: Final = 60.0
_CONNECT_S: Final = 10.0
_BROKEN: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
_TRIES: Final = 3
_PAUSE_S: Final = 0.1
#: Until a version that is registered, and missing at a server, may have been loaded.
_LOADING_S: Final = 1.0
_SAID_CHARACTERS: Final = 300
#: Roles whose requests may hold a label: an error of the server may repeat a request.
_SECRET: Final = frozenset({"judge"})


class NotServed(Late):
    """A version that is registered, and at no server yet."""


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a role is served. `base_url` ends in ``/v1``; the key never leaves this process's
    memory. `timeout_s` bounds one request, without the wait for one of `concurrency` places.
    """

    base_url: str
    api_key: str = ""
    timeout_s: float = 300.0
    concurrency: int = 64

    @property
    def root(self) -> str:
        """Where routes are that are not OpenAI's."""
        return self.base_url.removesuffix("/v1")


class ModelClient:
    """Chat completions and embeddings. Use as an async context manager.

    Raises `Late`, `Transient` and `Poison` as the module says.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = dict(endpoints)
        self._limits = {role: asyncio.Semaphore(e.concurrency) for role, e in endpoints.items()}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def weight_label(self, server: Endpoint) -> str:
        """What a server of full weights says it holds; nothing while it is away, or is another
        kind of server.
        """
        if self._session is None:
            raise RuntimeError("the client is used before it is entered")
        url = f"{server.root}/weight_info"
        timeout = aiohttp.ClientTimeout(total=_CONNECT_S)
        try:
            async with self._session.get(url, timeout=timeout) as answer:
                found = msgspec.json.decode(await answer.read(), type=WeightInfo)
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError):
            return ""
        return found.weight_version

    async def chat(
        self, call: Call, *, served: str | None = None, at: Endpoint | None = None
    ) -> ModelReply:
        """Answer a `Call`, `at` another endpoint than its role's. `served`: its model is a
        registered version, which servers call so.
        """
        request, registered = chat_request(call), served is not None
        if registered:
            request["model"] = served
        try:
            body = await self._post(
                call.role, "chat/completions", request, registered=registered, at=at
            )
        except Poison as error:
            if not call.tolerate:
                raise
            _log.warning("a model refused a request", role=call.role, problem=str(error))
            return ModelReply(text="", finish_reason="error", problem=str(error))
        return read_completion(body, call)

    async def embed(self, embed: Embed) -> Vectors:
        """Answer an `Embed`; vectors are scaled to unit length."""
        request = {"model": embed.model, "input": list(embed.texts)}
        return read_embeddings(await self._post("embedder", "embeddings", request), embed)

    async def _post(
        self,
        role: str,
        path: str,
        request: dict[str, Any],
        *,
        registered: bool = False,
        at: Endpoint | None = None,
    ) -> bytes:
        endpoint = at or self._endpoint(role)
        url, data = f"{endpoint.base_url}/{path}", msgspec.json.encode(request)
        async with self._limits[role]:
            try:
                answer = await self._sent(endpoint, url, data)
            except aiohttp.ClientError as error:
                why = f"{role} at {url} is away: {type(error).__name__}: {error}"
                raise Late(why, jittered(_RETRY_S)) from error
            except TimeoutError as error:
                why = f"{role} at {url} gave no answer within {endpoint.timeout_s:g} s"
                raise Transient(why) from error
        if registered and answer.status == _NOT_FOUND:
            why = f"{role} at {url} does not serve {request['model']} yet"
            raise NotServed(why, jittered(_LOADING_S))
        if answer.status >= _CLIENT_ERROR:
            raise _refusal(answer, role, url, request["model"])
        return answer.body

    async def _sent(self, endpoint: Endpoint, url: str, data: bytes) -> _Answer:
        for _ in range(_TRIES - 1):
            try:
                return await self._send(endpoint, url, data)
            except aiohttp.ClientConnectorError:
                raise
            except _BROKEN:
                await asyncio.sleep(jittered(_PAUSE_S))
        return await self._send(endpoint, url, data)

    async def _send(self, endpoint: Endpoint, url: str, data: bytes) -> _Answer:
        if self._session is None:
            raise RuntimeError("the client is used before it is entered")
        headers = {"content-type": "application/json"}
        if endpoint.api_key:
            headers["authorization"] = f"Bearer {endpoint.api_key}"
        timeout = aiohttp.ClientTimeout(total=endpoint.timeout_s, sock_connect=_CONNECT_S)
        async with self._session.post(url, data=data, headers=headers, timeout=timeout) as answer:
            retry_after = answer.headers.get("retry-after")
            return _Answer(answer.status, await answer.read(), retry_after)

    def _endpoint(self, role: str) -> Endpoint:
        try:
            return self._endpoints[role]
        except KeyError:
            raise Poison(f"no endpoint for role {role!r}: set models.{role}.base_url") from None


class WeightInfo(msgspec.Struct):
    """What ``/weight_info`` of a server of full weights tells."""

    weight_version: str


class _Answer(msgspec.Struct, frozen=True):
    status: int
    body: bytes
    retry_after: str | None


def _refusal(answer: _Answer, role: str, url: str, model: str) -> Exception:
    """What an answer of 400 and above comes to."""
    said = answer.body[:_SAID_CHARACTERS].decode("utf-8", "replace")
    message = f"{role} at {url} answered {answer.status}"
    if role not in _SECRET:
        message += f": {clean(said)}"
    if answer.status in _BUSY:
        return Late(message, jittered(_seconds(answer.retry_after)))
    if answer.status >= _SERVER_ERROR:
        return Transient(message)
    if answer.status == _NOT_FOUND:
        message += f"; it does not know the model {model!r}, unless base_url is wrong: set "
        message += f"models.{role}.model or models.default.model to one that it serves"
    return Poison(message)


def _seconds(retry_after: str | None) -> float:
    """A server's wish in seconds; a date is not honoured."""
    try:
        wish = float(retry_after or _RETRY_S)
    except ValueError:
        return _RETRY_S
    return max(0.0, min(_MOST_RETRY_S, wish))


def jittered(seconds: float) -> float:
    """Some seconds more: up to half as many again."""
    return seconds * random.uniform(1.0, 1.5)  # noqa: S311 - it spreads load and hides nothing


__all__ = ["Endpoint", "ModelClient", "NotServed", "WeightInfo", "jittered"]
