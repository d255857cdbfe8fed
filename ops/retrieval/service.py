"""The retrieval service: `POST /retrieve` and `GET /health`, on loopback.

It answers from its first second: with 503 and its progress while the index is being built.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from mia_events.steps import Late, Poison, Transient
from ops.retrieval.embedding import Embedding
from ops.retrieval.index import Found, Index
from ops.retrieval.requests import LARGEST_BODY, decode_request, reply_to

__all__ = ["Service", "application"]

_RETRY_S: Final = 2
_HOSTS: Final = ("127.0.0.1", "localhost")


_Vectors: TypeAlias = Sequence[npt.NDArray[np.float32] | None]


class Service:
    """Searches for many requests at once.

    `index` is None until it is whole; `progress` says what is done until then. With an `embedding`
    the index has vectors, and a query needs one.
    """

    def __init__(self, *, top_k: int, embedding: Embedding | None = None) -> None:
        self.index: Index | None = None
        self.progress = "starting"
        self.top_k = top_k
        self._embedding = embedding
        self._cores = asyncio.Semaphore(os.cpu_count() or 1)

    async def search(self, index: Index, queries: Sequence[str], count: int) -> list[list[Found]]:
        """Return the passages of each query. Raises `Late` or `Transient` without its embedder."""
        if self._embedding is None:
            vectors: _Vectors = [None] * len(queries)
        else:
            vectors = list(await self._embedding.vectors(queries))
        async with self._cores:
            return await asyncio.to_thread(_search, index, queries, vectors, count)


def _search(
    index: Index, queries: Sequence[str], vectors: _Vectors, count: int
) -> list[list[Found]]:
    return [index.search(q, count, v) for q, v in zip(queries, vectors, strict=True)]


def application(service: Service) -> Starlette:
    """Return the routes over a service.

    A foreign Host is refused: no page in a browser reaches it through a name of its own.
    """

    async def retrieve(http: HttpRequest) -> Response:
        return await _retrieve(service, http)

    async def health(_: HttpRequest) -> Response:
        if service.index is None:
            return _not_ready(service)
        facts = msgspec.to_builtins(service.index.facts)
        return _json({"status": "ready", **{k: v for k, v in facts.items() if k != "sizes"}})

    return Starlette(
        routes=[
            Route("/retrieve", retrieve, methods=["POST"]),
            Route("/health", health, methods=["GET"]),
        ],
        middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=list(_HOSTS))],
    )


async def _retrieve(service: Service, http: HttpRequest) -> Response:
    body = await _body(http)
    if body is None:
        return _json({"error": f"the body exceeds {LARGEST_BODY} bytes; send fewer queries"}, 413)
    try:
        request = decode_request(body)
    except ValueError as error:
        return _json({"error": str(error)}, 400)
    if service.index is None:
        return _not_ready(service)
    try:
        found = await service.search(service.index, request.queries, request.topk or service.top_k)
    except (Late, Transient) as error:
        return _away(f"the embedder does not answer: {error}")
    except Poison as error:
        return _json({"error": f"the embedder refuses: {error}"}, 500)
    return _json(reply_to(request, found, service.index.facts.corpus_sha256))


async def _body(http: HttpRequest) -> bytes | None:
    """Read the body; None when it is larger than allowed."""
    body = bytearray()
    async for chunk in http.stream():
        body += chunk
        if len(body) > LARGEST_BODY:
            return None
    return bytes(body)


def _not_ready(service: Service) -> Response:
    return _away(f"not ready, {service.progress}", progress=service.progress)


def _away(why: str, **more: str) -> Response:
    response = _json({"error": f"{why}; try again later", **more}, 503)
    response.headers["retry-after"] = str(_RETRY_S)
    return response


def _json(content: Any, status: int = 200) -> Response:  # noqa: ANN401 - whatever JSON can hold
    return Response(msgspec.json.encode(content), status, media_type="application/json")
