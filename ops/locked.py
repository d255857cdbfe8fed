"""Environments made from the committed lock files, for engines whose pins conflict with ours.

With uv where there is one and pip elsewhere; torch is a step of its own, so that another build of
it can be named. A kill at any point leaves one without its stamp, which the next call makes again.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ops.embedded.state import write_atomically
from ops.errors import Refused
from ops.installing import Installer, Progress

__all__ = ["Locked", "Stamp", "TorchBuild", "digest_of_locks", "ensure", "is_finished"]

_HERE = Path(__file__).resolve().parent
_GIB = 1 << 30
_STAMP = ".stamp"
_TORCH = "torch.txt"
_ANOTHER_BUILD_GIB, _DEFAULT_BUILD_GIB = 3, 7


@dataclass(frozen=True)
class TorchBuild:
    """Which build of torch: the locked one, or `spec` as `index` has it."""

    spec: str = ""
    index: str = ""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> "TorchBuild":
        """Read `TORCH_SPEC` and `TORCH_INDEX`."""
        return cls(environ.get("TORCH_SPEC", ""), environ.get("TORCH_INDEX", ""))

    @property
    def needs_gib(self) -> int:
        """Disk space for the whole environment: the locked build carries CUDA's libraries."""
        return _ANOTHER_BUILD_GIB if self.spec else _DEFAULT_BUILD_GIB


@dataclass(frozen=True)
class Locked:
    """One kind of environment: `name` names its lock file too, `engine` is what it is for.

    `without` says what to do on a machine that it is not built for.
    """

    name: str
    engine: str
    without: str

    @property
    def variable(self) -> str:
        """The variable that moves it to another folder."""
        return f"MIA_{self.name.upper()}_ENV"

    def folder(self, environ: Mapping[str, str] = os.environ) -> Path:
        """Say where it belongs: where the variable says, the checkout, or the state folder."""
        if named := environ.get(self.variable):
            return Path(named).absolute()
        if (_HERE.parent / "pyproject.toml").exists():
            return _HERE.parent / f".venv-{self.name}"
        return Path(environ.get("MIA_HOME", ".mia")).absolute() / "envs" / self.name


class Stamp(msgspec.Struct, frozen=True):
    """What a finished environment was made from, and where: it cannot be moved."""

    locks: str
    folder: str
    torch: TorchBuild

    def serves(self, wanted: "Stamp") -> bool:
        """Tell whether this will do; who names no build of torch takes the one that is there."""
        same = (self.locks, self.folder) == (wanted.locks, wanted.folder)
        return same and wanted.torch in (self.torch, TorchBuild())


def is_finished(folder: Path) -> bool:
    """Tell whether the environment in `folder` was finished, of whatever version."""
    return (folder / _STAMP).exists()


def ensure(
    kind: Locked, folder: Path, build: TorchBuild, progress: Progress, finish: Callable[[], None]
) -> None:
    """Make the environment in `folder` if it is missing or of other pins; `finish` completes it.

    Raises:
        Refused: wrong machine, too little disk, or an installer that failed (with its last lines).
    """
    wanted = Stamp(digest_of_locks(kind), str(folder), build)
    with _alone(folder, progress):
        if not _is_made(folder, wanted):
            _refuse_machine(kind)
            _remove(folder)
            _refuse_disk(kind, folder, build)
            _create(kind, folder, build, progress)
            finish()
            write_atomically(folder / _STAMP, msgspec.json.encode(wanted))
            progress(f"the {kind.name} environment is ready")
        (folder / _STAMP).touch()  # so that make sees it newer than the locks


def digest_of_locks(kind: Locked) -> str:
    """Return what the environment depends on, as one digest."""
    locks = (_lock(_TORCH), _lock(f"{kind.name}.txt"))
    parts = [*(path.read_bytes() for path in locks), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _lock(name: str) -> Path:
    """Find a lock file: beside the checkout's packages, or inside ours when installed."""
    for base in (_HERE.parent, _HERE):
        path = base / "requirements" / name
        if path.exists():
            return path
    raise Refused(f"the lock file {name} is missing", "Install the whole distribution again.")


def _is_made(folder: Path, wanted: Stamp) -> bool:
    try:
        stamp = msgspec.json.decode((folder / _STAMP).read_bytes(), type=Stamp)
    except (FileNotFoundError, msgspec.DecodeError):
        return False
    return stamp.serves(wanted)


@contextlib.contextmanager
def _alone(folder: Path, progress: Progress) -> Iterator[None]:
    """Hold the folder: two that want the same environment make it once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress(f"waiting: another process is making {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _refuse_machine(kind: Locked) -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Refused(
            f"{kind.engine} is locked for Linux on x86-64, this is {sys.platform} on"
            f" {platform.machine()}",
            kind.without,
        )


def _remove(folder: Path) -> None:
    """Remove an environment of other pins, or half made; nothing that is no environment."""
    if not folder.exists():
        return
    if any(folder.iterdir()) and not (folder / "pyvenv.cfg").exists():
        raise Refused(
            f"{folder} is no whole environment",
            "Remove it if it once was one, or name a new folder.",
        )
    shutil.rmtree(folder)


def _refuse_disk(kind: Locked, folder: Path, build: TorchBuild) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < build.needs_gib * _GIB:
        raise Refused(
            f"the {kind.name} environment needs {build.needs_gib} GiB in {folder.parent}, there are"
            f" {free / _GIB:.1f}",
            f"Free some, set {kind.variable} to a folder on another disk, or name a smaller build"
            " of torch with TORCH_SPEC and TORCH_INDEX.",
        )


def _create(kind: Locked, folder: Path, build: TorchBuild, progress: Progress) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    python = folder / "bin" / "python"
    installer = Installer(python, uv if uv and Path(uv).exists() else "", progress)
    installer.make(kind.name)
    if build.spec:
        index = ["--index-url", build.index] if build.index else []
        installer.install("torch", [*index, build.spec])
    else:
        installer.install("torch", ["--no-deps", "--require-hashes", "-r", str(_lock(_TORCH))])
    lock = str(_lock(f"{kind.name}.txt"))
    installer.install(kind.engine, ["--no-deps", "--require-hashes", "-r", lock])
