"""The scripted model server as a process of its own. It is a part of the tests."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import Any

import aiohttp

from ops.chaos.crew import ROOT
from ops.embedded.spec import launch
from ops.errors import Refused

__all__ = ["ScriptedServer", "scripted_model"]

_MODULE = "tests.support.scripted_model"
_START_S = 30.0


class ScriptedServer:
    """A running server: where it is and what it was asked."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url
        self._root = base_url.removesuffix("/v1")

    async def stats(self) -> dict[str, Any]:
        """Return what it counted since it started or was reset."""
        async with aiohttp.ClientSession() as session, session.get(f"{self._root}/_stats") as reply:
            reply.raise_for_status()
            counted: dict[str, Any] = await reply.json()
        return counted

    async def reset(self) -> None:
        """Make it count anew."""
        async with aiohttp.ClientSession() as session, session.post(f"{self._root}/_reset") as said:
            said.raise_for_status()


@asynccontextmanager
async def scripted_model(options: Sequence[str] = ()) -> AsyncIterator[ScriptedServer]:
    """Run the server as long as the block lasts. Raises `Refused` where the tests are missing."""
    if find_spec("tests") is None or find_spec(_MODULE) is None:
        raise Refused(
            "the scripted model server is a part of the tests, which are not installed",
            "Run this from a checkout of the repository.",
        )
    process = await asyncio.create_subprocess_exec(
        *launch([sys.executable, "-m", _MODULE, "--signed", *options], None),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        cwd=ROOT,
    )
    try:
        yield ScriptedServer(await _address(process))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _address(process: asyncio.subprocess.Process) -> str:
    if process.stdout is None:
        raise RuntimeError("the scripted model was started without a pipe")
    line = await asyncio.wait_for(process.stdout.readline(), _START_S)
    if not line:
        raise RuntimeError(f"the scripted model ended with {await process.wait()}")
    return str(json.loads(line)["base_url"])
