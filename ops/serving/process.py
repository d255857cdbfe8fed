"""Pass after pass, whatever is away, with a report of the last one."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from ops.embedded.state import write_atomically
from ops.serving.config import ServingConfig, reconciler_of
from ops.serving.reconciler import Level
from storage.postgres.pool import Unavailable

__all__ = ["read_report", "serve"]

_log = structlog.get_logger(__name__)
_AGAIN_S: Final = 0.5


def _untold(_: Level) -> None:
    return


async def serve(config: ServingConfig, told: Callable[[Level], None] = _untold) -> None:
    """Bring all level every `config.poll_s` seconds until cancelled; `told` is every pass."""
    while True:
        try:
            await _serve(config, told)
        except Unavailable as error:
            _log.warning("waiting for the database", error=str(error))
            await asyncio.sleep(_AGAIN_S)


async def _serve(config: ServingConfig, told: Callable[[Level], None]) -> None:
    async with reconciler_of(config) as reconciler:
        while True:
            level = await reconciler.once()
            told(level)
            if config.report is not None:
                write_atomically(Path(config.report), msgspec.json.encode(level))
            await asyncio.sleep(config.poll_s)


def read_report(path: Path) -> Level | None:
    """Return the last pass of whoever reports to `path`; None without one."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Level)
    except FileNotFoundError:
        return None
