"""What replicas are asked by."""

from typing import Any, Self

import aiohttp

from consumers.effects.model_client import Endpoint
from mia_events.quoting import clean

__all__ = ["Away", "Declined", "Routes", "said"]

_SAID_CHARACTERS = 300


class Away(Exception):
    """The server does not answer now; it may be starting."""


class Declined(Exception):
    """The server answered that it will not do that."""


class Routes:
    """The routes of a server under `root`. Use as an async context manager."""

    def __init__(self, endpoint: Endpoint, root: str) -> None:
        self._endpoint, self._root = endpoint, root
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        key = self._endpoint.api_key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(headers=headers)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def address(self) -> str:
        """Where the server is, for a reader."""
        return self._endpoint.base_url

    async def ask(
        self, method: str, path: str, wish: dict[str, Any] | None, seconds: float
    ) -> tuple[int, bytes]:
        """Return status and body of an answer.

        Raises:
            Away: there is none in so many seconds.
        """
        if self._session is None:
            raise RuntimeError("the replica is used before it is entered")
        url, timeout = f"{self._root}/{path}", aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(method, url, json=wish, timeout=timeout) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Away(f"{url}: {type(error).__name__}: {error}") from error


def said(body: bytes) -> str:
    """Return the beginning of what a server said, fit to be printed."""
    return clean(body[:_SAID_CHARACTERS].decode("utf-8", "replace"))
