"""A server of the planner that takes and drops versions while it answers."""

from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, Self

import aiohttp
import msgspec

from consumers.effects.model_client import Endpoint
from mia_events.quoting import clean

__all__ = ["Away", "Declined", "Replica", "VllmReplica"]

_LIST_S: Final = 5.0
#: An adapter is read and copied while the server goes on with its requests.
_LOAD_S: Final = 120.0
_SAID_CHARACTERS: Final = 300
_SWITCHED_OFF: Final = (
    "it takes no adapters while it runs: start it with --enable-lora and"
    " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
)


class Away(Exception):
    """The server does not answer now; it may be starting."""


class Declined(Exception):
    """The server answered that it will not do that."""


class Replica(Protocol):
    """One server. Every method raises `Away`, and `Declined` where it says so."""

    @property
    def address(self) -> str:
        """Where it is, for a reader."""
        ...

    async def present(self) -> frozenset[str]:
        """The versions that it serves, by its own names for them."""
        ...

    async def load(self, name: str, folder: Path) -> None:
        """Serve the adapter in `folder` as `name`; nothing when it does. Raises `Declined`."""
        ...

    async def unload(self, name: str) -> None:
        """Take no further request for `name`; nothing when it takes none. Raises `Declined`."""
        ...


class _Model(msgspec.Struct):
    id: str
    parent: str | None = None


class _Models(msgspec.Struct):
    data: list[_Model]


class VllmReplica:
    """A vLLM server with LoRA. Use as an async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        key = self._endpoint.api_key
        headers = {"authorization": f"Bearer {key}"} if key else {}
        self._session = aiohttp.ClientSession(headers=headers)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def address(self) -> str:
        """See the port."""
        return self._endpoint.base_url

    async def present(self) -> frozenset[str]:
        """See the port."""
        status, body = await self._ask("GET", "models", None, _LIST_S)
        if status != HTTPStatus.OK:
            raise Away(f"{self.address}/models answered {status}")
        try:
            models = msgspec.json.decode(body, type=_Models)
        except msgspec.DecodeError as error:
            raise Away(f"{self.address}/models is no list of models: {error}") from error
        return frozenset(model.id for model in models.data if model.parent)

    async def load(self, name: str, folder: Path) -> None:
        """See the port."""
        wish = {"lora_name": name, "lora_path": str(folder)}
        status, body = await self._ask("POST", "load_lora_adapter", wish, _LOAD_S)
        if status != HTTPStatus.OK and name not in await self.present():
            raise Declined(f"{self.address} did not load {name}: {_why(status, body)}")

    async def unload(self, name: str) -> None:
        """See the port."""
        status, body = await self._ask("POST", "unload_lora_adapter", {"lora_name": name}, _LIST_S)
        if status != HTTPStatus.OK and name in await self.present():
            raise Declined(f"{self.address} did not unload {name}: {_why(status, body)}")

    async def _ask(
        self, method: str, path: str, wish: dict[str, Any] | None, seconds: float
    ) -> tuple[int, bytes]:
        if self._session is None:
            raise RuntimeError("the replica is used before it is entered")
        url, timeout = f"{self.address}/{path}", aiohttp.ClientTimeout(total=seconds)
        try:
            async with self._session.request(method, url, json=wish, timeout=timeout) as answer:
                return answer.status, await answer.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Away(f"{url}: {type(error).__name__}: {error}") from error


def _why(status: int, body: bytes) -> str:
    said = clean(body[:_SAID_CHARACTERS].decode("utf-8", "replace"))
    # The route is missing; a missing adapter's answer names it.
    if status == HTTPStatus.NOT_FOUND and "adapter" not in said.lower():
        return _SWITCHED_OFF
    return f"{status}: {said}"
