"""One client for OpenAI-compatible endpoints, a role per endpoint."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Self

import aiohttp
import msgspec

from mia_events.effects import ModelReply, Vectors
from mia_events.steps import Late, Poison, Transient

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mia_events.effects import Call, Embed

_BUSY = frozenset({408, 425, 429, 503})
_RETRY_S = 2.0


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """Where a role is served. `base_url` ends in ``/v1``; the key never leaves this process's
    memory.
    """

    base_url: str
    api_key: str = ""
    timeout_s: float = 300.0
    concurrency: int = 64


class _Logprob(msgspec.Struct):
    logprob: float


class _Logprobs(msgspec.Struct):
    content: list[_Logprob] | None = None


class _Text(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Text
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None
    token_ids: list[int] | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    model: str = ""
    usage: _Usage | None = None
    prompt_token_ids: list[int] | None = None


class _Embedding(msgspec.Struct):
    index: int
    embedding: list[float]


class _Embeddings(msgspec.Struct):
    data: list[_Embedding]


_completion = msgspec.json.Decoder(_Completion)
_embeddings = msgspec.json.Decoder(_Embeddings)
_encoder = msgspec.json.Encoder()


class ModelClient:
    """Chat completions and embeddings. Use as an async context manager.

    An endpoint that is away or busy raises `Late`: the command waits and is not to blame. A fault
    of the server raises `Transient`, a request that can never be answered `Poison`.
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

    async def chat(self, call: Call) -> ModelReply:
        """Answer a `Call`."""
        try:
            body = await self._post(call.role, "chat/completions", _chat_request(call))
            return _reply(body, call)
        except Poison as error:
            if call.tolerate:
                return ModelReply(text="", finish_reason="error", problem=str(error))
            raise

    async def embed(self, embed: Embed) -> Vectors:
        """Answer an `Embed`; vectors are scaled to unit length."""
        request = {"model": embed.model, "input": list(embed.texts)}
        body = await self._post("embedder", "embeddings", request)
        try:
            data = sorted(_embeddings.decode(body).data, key=lambda item: item.index)
        except msgspec.DecodeError as error:
            message = f"the embedder's reply is none: {error}"
            raise Transient(message) from error
        if len(data) != len(embed.texts):
            message = f"the embedder gave {len(data)} vectors for {len(embed.texts)} texts"
            raise Transient(message)
        return Vectors(tuple(_unit(item.embedding) for item in data))

    async def _post(self, role: str, path: str, request: dict[str, Any]) -> bytes:
        endpoint = self._endpoint(role)
        url = f"{endpoint.base_url}/{path}"
        headers = {"content-type": "application/json"}
        if endpoint.api_key:
            headers["authorization"] = f"Bearer {endpoint.api_key}"
        timeout = aiohttp.ClientTimeout(total=endpoint.timeout_s)
        if self._session is None:
            message = "the client is used before it is entered"
            raise RuntimeError(message)
        try:
            async with (
                self._limits[role],
                self._session.post(
                    url, data=_encoder.encode(request), headers=headers, timeout=timeout
                ) as response,
            ):
                body = await response.read()
                _check(response.status, body, role, response.headers.get("retry-after"))
                return body
        except TimeoutError as error:
            message = f"{role} at {url} gave no answer within {endpoint.timeout_s:g} s"
            raise Transient(message) from error
        except aiohttp.ClientConnectorError as error:
            message = f"{role} at {url} is away: {error}"
            raise Late(message, _RETRY_S) from error
        except aiohttp.ClientError as error:
            message = f"{role} at {url} broke off: {type(error).__name__}: {error}"
            raise Late(message, _RETRY_S) from error

    def _endpoint(self, role: str) -> Endpoint:
        try:
            return self._endpoints[role]
        except KeyError:
            message = f"no endpoint for role {role!r}: set models.{role}.base_url"
            raise Poison(message) from None


def _chat_request(call: Call) -> dict[str, Any]:
    request: dict[str, Any] = {
        "model": call.model,
        "messages": [{"role": m.role, "content": m.content} for m in call.messages],
        "max_tokens": call.max_tokens,
        "temperature": call.temperature,
    }
    if call.seed is not None:
        request["seed"] = call.seed
    if call.schema is not None:
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": call.role, "schema": call.schema, "strict": True},
        }
    if call.capture_tokens:
        request |= {"return_token_ids": True, "logprobs": True}
    return request


def _check(status: int, body: bytes, role: str, retry_after: str | None) -> None:
    if status < 400:  # noqa: PLR2004 - the classes of HTTP
        return
    said = body[:300].decode("utf-8", "replace")
    message = f"{role} answered {status}: {said}"
    if status in _BUSY:
        raise Late(message, _seconds(retry_after))
    if status >= 500:  # noqa: PLR2004
        raise Transient(message)
    raise Poison(message)


def _seconds(retry_after: str | None) -> float:
    try:
        return min(60.0, float(retry_after or _RETRY_S))
    except ValueError:
        return _RETRY_S


def _reply(body: bytes, call: Call) -> ModelReply:
    try:
        completion = _completion.decode(body)
        choice = completion.choices[0]
    except (msgspec.DecodeError, IndexError) as error:
        message = f"{call.role}'s reply is no chat completion: {error}"
        raise Transient(message) from error
    usage = completion.usage or _Usage()
    logprobs = choice.logprobs.content if choice.logprobs is not None else None
    return ModelReply(
        text=choice.message.content or "",
        finish_reason=choice.finish_reason or "",
        model=completion.model,
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        prompt_ids=tuple(completion.prompt_token_ids or ()),
        token_ids=tuple(choice.token_ids or ()),
        logprobs=tuple(item.logprob for item in logprobs or ()),
    )


def _unit(vector: list[float]) -> tuple[float, ...]:
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length) or length == 0:
        message = "the embedder gave a vector without length"
        raise Transient(message)
    return tuple(round(value / length, 7) for value in vector)


__all__ = ["Endpoint", "ModelClient"]
