"""A stack in a temporary folder, for one trial."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ops.embedded.stack import EmbeddedStack
from ops.settings import EmbeddedSettings

__all__ = ["ground"]

_SETTINGS = EmbeddedSettings(postgres_wal_mb=256, postgres_shared_buffers_mb=256, kafka_heap_mb=512)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@asynccontextmanager
async def ground(*, keep: bool = False) -> AsyncIterator[tuple[EmbeddedStack, Path]]:
    """Give a running stack and the folder for everything else; both are removed unless `keep`."""
    home = Path(tempfile.mkdtemp(prefix="mia-chaos-"))
    try:
        async with EmbeddedStack(home, _SETTINGS, progress=_say) as stack:
            yield stack, home
    finally:
        if keep:
            _say(f"kept: {home}")
        else:
            await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)
