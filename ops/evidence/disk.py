"""A run on a small disk that is full for a while."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ops.chaos.questions import cities
from ops.chaos.scripted import scripted_model
from ops.errors import Refused
from ops.evidence.main7 import hotpot_file, scripted_settings
from ops.evidence.record import Claim
from ops.evidence.user import User

__all__ = ["full_disk", "judge_disk"]

_FULL_S: Final = 20.0
_DISK_MB: Final = 2_300
_LIMIT_S: Final = 600.0


async def full_disk(questions: int) -> dict[str, Any]:
    """Run on a small disk, fill it in the middle, free it again."""
    with _small_disk() as disk:
        async with scripted_model() as model:
            someone = User(disk / "home", scripted_settings(model.base_url))
            try:
                return await _filled(someone, disk, questions)
            finally:
                (disk / "filler").unlink(missing_ok=True)
                await someone.mia("down", may_fail=True)


async def _filled(someone: User, disk: Path, questions: int) -> dict[str, Any]:
    await someone.mia("up")
    await someone.mia("run", "create", "full", "--mode", "batch", "--batch-size", "6")
    with tempfile.TemporaryDirectory() as folder:
        path = hotpot_file(Path(folder) / "cities.json", cities(questions, " [[sleep 0.5]]"))
        await someone.mia("ingest", str(path), "--run", "full")
    await someone.until("full", lambda run: bool(run["ended"] >= questions // 4), limit_s=_LIMIT_S)
    filler = await asyncio.to_thread(_fill, disk / "filler")
    await asyncio.sleep(_FULL_S)
    left = shutil.disk_usage(disk).free
    (disk / "filler").unlink()
    await someone.mia("run", "close", "full")
    await someone.until("full", lambda run: bool(run["state"] == "ended"), limit_s=_LIMIT_S)
    told = await someone.audited("full")
    (run,) = told["runs"]
    names = ("accepted", "ended", "answered", "failed", "digest")
    return {name: run[name] for name in names} | {
        "questions": questions,
        "clean": told["clean"],
        "filled_bytes": filler,
        "free_bytes_while_full": left,
    }


def _fill(path: Path) -> int:
    """Write until the disk is full; how much it took."""
    block, written = bytes(2**20), 0
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                written += file.write(block)
        except OSError:
            return written


@contextmanager
def _small_disk() -> Iterator[Path]:
    """Mount a disk of its own in memory. Raises `Refused` where that is not allowed."""
    folder = Path(tempfile.mkdtemp(prefix="mia-disk-"))
    mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        folder.rmdir()
        raise Refused("a small disk cannot be mounted", "Run this as a user who may mount: root.")
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
        folder.rmdir()


def judge_disk(disk: dict[str, Any]) -> list[Claim]:
    """Judge by the audit, and by how full the disk was."""
    whole = disk["clean"] and disk["questions"] == disk["accepted"] == disk["ended"]
    return [
        Claim(f"the disk was full for {_FULL_S:g} s", disk["free_bytes_while_full"] < 2**20),
        Claim(f"all {disk['ended']} questions ended exactly once when it was free again", whole),
    ]
