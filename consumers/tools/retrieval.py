"""The client of a retrieval service: `POST /retrieve` of one address that the operator has set.

What a page or a model says never becomes part of the address, and no redirect is followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Self

import aiohttp
import msgspec

from consumers.tools.search import listed
from mia_events.effects import ToolResult
from mia_events.quoting import clean, clip
from mia_events.steps import Late, Poison, Transient
from schemas.external import Paragraph

_RETRY_S: Final = 2.0
_LONGEST_RETRY_S: Final = 60.0
_LARGEST_REPLY: Final = 4 * 2**20
_SOURCE_CHARACTERS: Final = 200
_REASON_CHARACTERS: Final = 200
#: The query is at fault: the model is told.
_REFUSED: Final = frozenset({400, 413, 422})
_AWAY: Final = frozenset({408, 425, 429, 502, 503, 504})
_OK: Final = 200
_FAULT: Final = 500


class RetrievalService(msgspec.Struct, frozen=True, kw_only=True):
    """Where passages are searched (`base_url` without ``/retrieve``), and how many are wanted."""

    base_url: str
    top_k: int = 3
    timeout_s: float = 10.0


class _Document(msgspec.Struct, frozen=True):
    contents: str
    id: str | int | None = None


class _Hit(msgspec.Struct, frozen=True):
    document: _Document


class _Reply(msgspec.Struct, frozen=True):
    result: tuple[tuple[_Hit, ...]]
    corpus: str = ""


_reply: Final = msgspec.json.Decoder(_Reply)


class RetrievalClient:
    """Searches on behalf of the tool `search`. Use as an async context manager."""

    def __init__(self, service: RetrievalService) -> None:
        self._service = service
        self._url = f"{service.base_url.rstrip('/')}/retrieve"
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=self._service.timeout_s)
        self._session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def search(self, query: str) -> ToolResult:
        """The best passages, numbered; a query that is refused is an error observation.

        Raises:
            Late: the service is away, busy, or does not answer in time.
            Transient: it is at fault.
            Poison: it is no retrieval service, or does not let us in.
        """
        status, body, retry_after = await self._post(query)
        if status in _AWAY:
            raise Late(f"{self._url} answered {status}: {_said(body)}", _seconds(retry_after))
        if status in _REFUSED:
            return ToolResult(ok=False, text=f"The search was refused: {_said(body)}")
        if status >= _FAULT:
            raise Transient(f"{self._url} answered {status}: {_said(body)}")
        if status != _OK:
            raise Poison(f"{self._url} answered {status}, check retrieval.base_url: {_said(body)}")
        try:
            reply = _reply.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Poison(f"{self._url} is no retrieval service: {error}") from error
        (hits,) = reply.result
        documents = [hit.document for hit in hits[: self._service.top_k]]
        return _told(documents, clip(clean(reply.corpus), _SOURCE_CHARACTERS))

    async def _post(self, query: str) -> tuple[int, bytes, str]:
        if self._session is None:
            raise RuntimeError("the client is used before it is entered")
        request = {"queries": [query], "topk": self._service.top_k, "return_scores": True}
        try:
            async with self._session.post(
                self._url, json=request, allow_redirects=False
            ) as response:
                body = await _read(response)
                return response.status, body, response.headers.get("retry-after", "")
        except TimeoutError as error:
            message = f"{self._url} gave no answer within {self._service.timeout_s:g} s"
            raise Late(message, _RETRY_S) from error
        except aiohttp.ClientError as error:
            message = f"{self._url} is away: {type(error).__name__}: {error}"
            raise Late(message, _RETRY_S) from error


async def _read(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > _LARGEST_REPLY:
            raise Poison(f"{response.url} answered more than {_LARGEST_REPLY} bytes")
    return bytes(body)


def _told(documents: Sequence[_Document], corpus: str) -> ToolResult:
    found = [(document, _paragraph(document)) for document in documents]
    named = [
        paragraph.title if document.id is None else f"{paragraph.title} ({document.id})"
        for document, paragraph in found
    ]
    return ToolResult(
        ok=True,
        text=listed([paragraph for _, paragraph in found]),
        sources=tuple(dict.fromkeys(clip(clean(name), _SOURCE_CHARACTERS) for name in named)),
        corpus=corpus,
    )


def _paragraph(document: _Document) -> Paragraph:
    title, _, text = document.contents.strip().partition("\n")
    return Paragraph(title=clip(title.strip().strip('"'), _SOURCE_CHARACTERS), text=text or title)


def _said(body: bytes) -> str:
    return clip(
        clean(body[: 4 * _REASON_CHARACTERS].decode("utf-8", "replace")), _REASON_CHARACTERS
    )


def _seconds(retry_after: str) -> float:
    try:
        return max(0.0, min(_LONGEST_RETRY_S, float(retry_after)))
    except ValueError:
        return _RETRY_S


__all__ = ["RetrievalClient", "RetrievalService"]
