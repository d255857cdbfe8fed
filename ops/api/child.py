"""The HTTP service as the stack's child."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Final

import aiohttp

from ops.api.config import api_config
from ops.connect import Connections
from ops.embedded.ours import embedded_parts, our_child
from ops.embedded.spec import ChildSpec
from ops.embedded.state import Home
from ops.settings import Settings

__all__ = ["NAME", "api_child", "base_url"]

NAME: Final = "api"


def base_url(host: str, port: int) -> str:
    """Return where a service that listens on `host` is reached from this machine."""
    near = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - what such a host means here
    return f"http://{near.get(host, f'[{host}]' if ':' in host else host)}:{port}"


def api_child(
    settings: Settings,
    home: Home,
    connections: Connections,
    prepare: Callable[[], Awaitable[None]],
) -> ChildSpec | None:
    """Return the service as a child; None unless it is enabled.

    Raises:
        Refused: its port is taken, or it would listen to other machines without a token.
    """
    if not settings.api.enabled:
        return None
    port, _ = home.port(NAME, settings.api.port)
    config = api_config(settings, connections, port)
    where = base_url(config.host, port)

    async def answers() -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{where}/health", allow_redirects=False) as response,
        ):
            response.raise_for_status()

    return replace(
        our_child(NAME, "ops.api", config, answers),
        prepare=prepare,
        depends_on=embedded_parts(settings),
        port=port,
    )
