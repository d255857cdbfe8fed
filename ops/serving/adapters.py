"""Adapters as servers read them: folders made from artifacts, one for each version, for good."""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Collection
from pathlib import Path
from typing import Final

from consumers.train.packing import unpack
from mia_events.learning.versions import is_served_name
from storage.ports import Artifacts

__all__ = ["AdapterFolders", "Damaged", "unpack_adapter"]

#: What an adapter is made of, as PEFT and vLLM name it.
FILES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors"})


class Damaged(ValueError):
    """An artifact that is no adapter."""


class AdapterFolders:
    """Adapters under `folder`, by the names that servers give them.

    A name stands for its weights, and a folder is there with all its files or not at all; so one
    that is there is right, whoever made it.
    """

    def __init__(self, artifacts: Artifacts, folder: Path) -> None:
        self._artifacts, self._folder = artifacts, folder
        self._idle_since: dict[str, float] = {}

    async def ensure(self, name: str, adapter_sha256: str) -> Path:
        """Return the folder of a version, made from its artifact if need be.

        Raises:
            LookupError: there is no such artifact.
            Damaged: it is no adapter.
            ValueError: its bytes are not those of its digest.
        """
        target = self._folder / name
        if not target.exists():
            data = await self._artifacts.get(adapter_sha256)
            await asyncio.to_thread(unpack_adapter, data, target)
        return target

    def forget(self, keep: Collection[str], *, idle_s: float) -> list[str]:
        """Remove folders of versions that were not in `keep` for `idle_s` seconds; their names."""
        now = time.monotonic()
        there = self._folder.iterdir() if self._folder.exists() else ()
        idle = {path.name for path in there if is_served_name(path.name)} - set(keep)
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
        old = sorted(name for name, since in self._idle_since.items() if now - since >= idle_s)
        for name in old:
            shutil.rmtree(self._folder / name, ignore_errors=True)
        return old


def unpack_adapter(data: bytes, target: Path) -> None:
    """Write the files of a packed adapter to the folder `target`, which appears when all are there.

    Raises:
        Damaged: `data` is no artifact of exactly an adapter's files.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=target.parent))
    try:
        for name, content in _files(data).items():
            _write(draft / name, content)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:  # another was faster: its files are the same
            if not target.exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _files(data: bytes) -> dict[str, bytes]:
    try:
        found = unpack(data)
    except ValueError as error:
        raise Damaged(str(error)) from error
    if odd := sorted(found.keys() ^ FILES):
        raise Damaged(f"it is no adapter: {odd[0]} is {'odd' if odd[0] in found else 'missing'}")
    return found


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
