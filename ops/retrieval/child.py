"""The retrieval service as the stack's child, and how workers reach it or one that is not ours."""

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from consumers.effects.model_client import Endpoint
from consumers.tools.retrieval import RetrievalService
from ops.embedded import report
from ops.embedded.ours import our_child
from ops.embedded.spec import ChildSpec, NotYet
from ops.embedded.state import Home
from ops.errors import Refused
from ops.models import choices
from ops.retrieval.config import RetrievalConfig
from ops.settings import Settings

__all__ = [
    "NAME",
    "check_service",
    "is_ours",
    "port_in_use",
    "retrieval_child",
    "retrieval_config",
    "retrieval_service",
]

NAME: Final = "retrieval"
_EMBEDDER: Final = "embedder"
#: Vectors of a million passages take hours on a CPU; the service says how far it is.
_READY_PATIENCE_S: Final = 24 * 3600.0
_ASK_AGAIN_S: Final = 0.3
_PROBE: Final = {"queries": ["the first question"], "topk": 1, "return_scores": True}
_UNAVAILABLE: Final = 503
_CHECK_S: Final = 10.0


def is_ours(settings: Settings) -> bool:
    """Tell whether `mia up` runs a service."""
    return settings.retrieval.mode == "embedded" and bool(settings.retrieval.passages)


def port_in_use(home: Home) -> int:
    """Return the port of our own service in a stack that is up; 0 without one."""
    return report.read(home).child(NAME).port


def retrieval_service(settings: Settings, port: int) -> RetrievalService | None:
    """Return where workers search; None where nothing is set. `port` is our own service's.

    Raises:
        Refused: the address of an external service is missing, or is none.
    """
    chosen = settings.retrieval
    if chosen.mode == "external":
        base_url = _checked(chosen.base_url)
    elif is_ours(settings) and port:
        base_url = f"http://127.0.0.1:{port}"
    else:
        return None
    return RetrievalService(base_url=base_url, top_k=chosen.top_k, timeout_s=chosen.timeout_s)


def retrieval_config(
    settings: Settings, models: Mapping[str, Endpoint], port: int = 0
) -> RetrievalConfig:
    """Return what the service must know; `models` are the endpoints by role.

    Raises:
        Refused: vectors are wanted and no embedder is served.
    """
    chosen = settings.retrieval
    if chosen.dense and _EMBEDDER not in models:
        raise Refused(
            "retrieval.dense needs an embedder, and none is served",
            "Start vLLM (`mia up`), set models.embedder.base_url, or set retrieval.dense = false.",
        )
    return RetrievalConfig(
        passages=str(Path(chosen.passages).expanduser().absolute()),
        folder=str(Home(Path(settings.home).absolute()).retrieval),
        top_k=chosen.top_k,
        port=port,
        embedder=models[_EMBEDDER] if chosen.dense else None,
        model=choices(settings)[_EMBEDDER].model if chosen.dense else "",
    )


def retrieval_child(
    settings: Settings, home: Home, models: Mapping[str, Endpoint]
) -> ChildSpec | None:
    """Return the service as a child; None unless passages are set.

    Raises:
        Refused: a configured port is taken, or there is no embedder for vectors.
    """
    if not is_ours(settings):
        return None
    port, _ = home.port(NAME, settings.embedded.retrieval_port)

    async def answers() -> None:
        await _probe(f"http://127.0.0.1:{port}")

    config = retrieval_config(settings, models, port)
    return replace(
        our_child(NAME, "ops.retrieval", config, answers),
        port=port,
        ready_patience_s=_READY_PATIENCE_S,
    )


async def check_service(settings: Settings) -> None:
    """Refuse an external service that does not answer a query."""
    if settings.retrieval.mode != "external":
        return
    base_url = _checked(settings.retrieval.base_url)
    try:
        await asyncio.wait_for(_probe(base_url), _CHECK_S)
    except (aiohttp.ClientError, NotYet, TimeoutError, ValueError, OSError) as error:
        raise Refused(
            f"the retrieval service at {base_url} does not answer: {error}",
            "Check retrieval.base_url and the way there, or set retrieval.mode to off.",
        ) from error


async def _probe(base_url: str) -> None:
    """Raise unless the service answers a query; `NotYet` says what it is doing instead."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{base_url}/retrieve", json=_PROBE, allow_redirects=False) as response,
    ):
        if response.status == _UNAVAILABLE:
            await asyncio.sleep(_ASK_AGAIN_S)
            said = msgspec.json.decode(await response.read(), type=dict[str, Any])
            raise NotYet(said.get("progress", ""))
        response.raise_for_status()
        found = msgspec.json.decode(await response.read(), type=dict[str, Any])
        if "result" not in found:
            raise ValueError("its reply has no result")


def _checked(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise Refused(
            "retrieval.mode is external and retrieval.base_url is no address",
            "Set it to http://HOST:PORT, without /retrieve and without a password.",
        )
    return base_url.rstrip("/")
