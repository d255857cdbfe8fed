"""Runs that take long, kept once they were made: the whole may be gathered piece by piece."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Final, TypeVar

import msgspec

__all__ = ["FOLDER", "piece"]

_T = TypeVar("_T", bound=msgspec.Struct)
#: Not a part of the repository. Who wants all of it anew removes it.
FOLDER: Final = Path(__file__).parents[2] / ".evidence"


async def piece(
    item: str, trial: msgspec.Struct, kind: type[_T], make: Callable[[], Awaitable[_T]]
) -> _T:
    """Return what was made of a trial before, else make it; another trial has another piece.

    A piece should say at which commit it was made.
    """
    key = sha256(msgspec.json.encode(trial, order="deterministic")).hexdigest()[:16]
    path = FOLDER / item / f"{key}.json"
    if await asyncio.to_thread(path.exists):
        return msgspec.json.decode(await asyncio.to_thread(path.read_bytes), type=kind)
    made = await make()
    await asyncio.to_thread(_write, path, msgspec.json.encode(made))
    return made


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
