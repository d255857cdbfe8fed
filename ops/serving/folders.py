"""Versions as servers read them: folders made from artifacts, one for each version, for good."""

import asyncio
import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Final

from consumers.train.packing import unpack
from mia_events.learning.versions import SERVED_BASE, is_served_name
from storage.ports import Artifacts

__all__ = [
    "ADAPTER_FILES",
    "Damaged",
    "VersionFolders",
    "unpack_adapter",
    "unpack_checkpoint",
]

#: What an adapter is made of, as PEFT and vLLM name it.
ADAPTER_FILES: Final = frozenset({"adapter_config.json", "adapter_model.safetensors"})
#: What a whole checkpoint has at least.
_CHECKPOINT_FILES: Final = frozenset({"config.json", "model.safetensors"})
#: What is being made or removed; after so long, whoever did was killed.
_DRAFT: Final = ".draft-"
_DRAFT_S: Final = 3_600.0


class Damaged(ValueError):
    """An artifact that is none of a version."""


class VersionFolders:
    """Versions under `folder`, by the names that servers give them.

    A name stands for its weights, and a folder is there with all its files or not at all; so one
    that is there is right, whoever made it. They are adapters, unless `unpacked` makes checkpoints;
    then `base` is the base model's own.
    """

    def __init__(
        self,
        artifacts: Artifacts,
        folder: Path,
        *,
        unpacked: Callable[[bytes, Path], None] | None = None,
        base: Path | None = None,
    ) -> None:
        self._artifacts, self._folder = artifacts, folder
        self._unpacked, self._base = unpacked or unpack_adapter, base
        self._idle_since: dict[str, float] = {}

    async def ensure(self, name: str, sha256: str) -> Path:
        """Return the folder of a version, made from its artifact if need be.

        Raises:
            LookupError: there is no such artifact, or nothing says where the base model lies.
            Damaged: it is none of a version.
            ValueError: its bytes are not those of its digest.
        """
        if name == SERVED_BASE:
            if self._base is None:
                raise LookupError("nothing says where the base model lies: set training.model")
            return self._base
        target = self._folder / name
        if not target.exists():
            data = await self._artifacts.get(sha256)
            await asyncio.to_thread(self._unpacked, data, target)
        return target

    def forget(self, keep: Collection[str], *, idle_s: float) -> list[str]:
        """Remove folders of versions that were not in `keep` for `idle_s` seconds; their names."""
        now = time.monotonic()
        there = self._folder.iterdir() if self._folder.exists() else ()
        idle = {path.name for path in there if is_served_name(path.name)} - set(keep)
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle}
        old = sorted(name for name, since in self._idle_since.items() if now - since >= idle_s)
        for name in old:
            with contextlib.suppress(OSError):  # another was faster, or it is not ours
                draft = _draft(self._folder)
                (self._folder / name).rename(draft / name)  # at once: what is there is whole
                shutil.rmtree(draft, ignore_errors=True)
        for left in self._folder.glob(f"{_DRAFT}*"):
            with contextlib.suppress(FileNotFoundError):  # it was finished meanwhile
                if time.time() - left.stat().st_mtime > _DRAFT_S:
                    shutil.rmtree(left, ignore_errors=True)
        return old


def unpack_adapter(data: bytes, target: Path) -> None:
    """Write the files of a packed adapter to the folder `target`, which appears when all are there.

    Raises:
        Damaged: `data` is no artifact of exactly an adapter's files.
    """
    files = _files(data)
    if odd := sorted(files.keys() ^ ADAPTER_FILES):
        raise Damaged(f"it is no adapter: {odd[0]} is {'odd' if odd[0] in files else 'missing'}")
    _write_all(files, target)


def unpack_checkpoint(data: bytes, target: Path) -> None:
    """Do the same for a whole checkpoint.

    Raises:
        Damaged: `data` is no artifact with at least a checkpoint's weights and configuration.
    """
    files = _files(data)
    if missing := sorted(_CHECKPOINT_FILES - files.keys()):
        raise Damaged(f"it is no checkpoint: {missing[0]} is missing")
    _write_all(files, target)


def _files(data: bytes) -> dict[str, bytes]:
    try:
        return unpack(data)
    except ValueError as error:
        raise Damaged(str(error)) from error


def _write_all(files: Mapping[str, bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft(target.parent)
    try:
        for name, content in files.items():
            _write(draft / name, content)
        draft.chmod(0o755)
        try:
            draft.rename(target)
        except OSError:  # another was faster: its files are the same
            if not target.exists():
                raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _draft(folder: Path) -> Path:
    return Path(tempfile.mkdtemp(prefix=_DRAFT, dir=folder))


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
