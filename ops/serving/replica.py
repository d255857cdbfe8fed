"""A server of the planner that takes and drops versions while it answers."""

from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol

import msgspec

from consumers.effects.model_client import Endpoint
from ops.serving.routes import Away, Declined, Routes, said

__all__ = ["Replica", "VllmReplica"]

_LIST_S: Final = 5.0
#: An adapter is read and copied while the server goes on with its requests.
_LOAD_S: Final = 120.0
_SWITCHED_OFF: Final = (
    "it takes no adapters while it runs: start it with --enable-lora and"
    " VLLM_ALLOW_RUNTIME_LORA_UPDATING=True"
)


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


class VllmReplica(Routes):
    """A vLLM server with LoRA. Use as an async context manager."""

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__(endpoint, endpoint.base_url)

    async def present(self) -> frozenset[str]:
        """See the port."""
        status, body = await self.ask("GET", "models", None, _LIST_S)
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
        status, body = await self.ask("POST", "load_lora_adapter", wish, _LOAD_S)
        if status != HTTPStatus.OK and name not in await self.present():
            raise Declined(f"{self.address} did not load {name}: {_why(status, body)}")

    async def unload(self, name: str) -> None:
        """See the port."""
        status, body = await self.ask("POST", "unload_lora_adapter", {"lora_name": name}, _LIST_S)
        if status != HTTPStatus.OK and name in await self.present():
            raise Declined(f"{self.address} did not unload {name}: {_why(status, body)}")


def _why(status: int, body: bytes) -> str:
    told = said(body)
    # The route is missing; a missing adapter's answer names it.
    if status == HTTPStatus.NOT_FOUND and "adapter" not in told.lower():
        return _SWITCHED_OFF
    return f"{status}: {told}"
