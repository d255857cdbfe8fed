"""A clean clone of this repository's commit, and commands that run in it."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import msgspec

from ops.embedded.spec import launch
from ops.errors import Refused

__all__ = ["Ran", "clean_clone", "run_in", "without_java"]

_ROOT = Path(__file__).parents[2]
_TAIL = 40
#: What would let a command in the clone see this checkout's environment.
_OURS = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MIA_HOME")


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """A command that has ended. `lines` are all it said, `tail` the last of them."""

    command: str
    status: int
    seconds: float
    tail: tuple[str, ...]
    lines: tuple[str, ...] = ()

    def told(self) -> dict[str, object]:
        """Return it without all its lines."""
        return {
            "command": self.command,
            "status": self.status,
            "seconds": self.seconds,
            "tail": self.tail,
            **({"errors": self._errors()} if self.status else {}),
        }

    def _errors(self) -> list[str]:
        """Return what pytest said of the assertions that failed."""
        return [line for line in self.lines if line.startswith("E  ")][:_TAIL]


@asynccontextmanager
async def clean_clone() -> AsyncIterator[Path]:
    """Clone the newest commit into a temporary folder, beside a link to `shared` if there is one.

    Raises `Refused` outside a checkout.
    """
    if not (_ROOT / ".git").exists():
        raise Refused("there is no repository to clone", "Run this from a checkout.")
    parent = Path(tempfile.mkdtemp(prefix="mia-clone-"))
    try:
        if (_ROOT.parent / "shared").is_dir():
            (parent / "shared").symlink_to(_ROOT.parent / "shared")
        folder = parent / "clone"
        cloned = await run_in(parent, ["git", "clone", "--quiet", str(_ROOT), str(folder)])
        if cloned.status:
            raise Refused("the repository cannot be cloned", "\n".join(cloned.tail))
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, parent, ignore_errors=True)


async def run_in(
    folder: Path,
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    heard: Callable[[str], None] = lambda _: None,
) -> Ran:
    """Run a command in a folder to its end; each line that it says is passed on to `heard`."""
    base = {name: value for name, value in os.environ.items() if name not in _OURS}
    program = shutil.which(command[0], path=(environment or base).get("PATH")) or command[0]
    began, lines = time.monotonic(), list[str]()
    process = await asyncio.create_subprocess_exec(
        *launch([program, *command[1:]], None),
        cwd=folder,
        env={**base, **(environment or {})},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        limit=2**20,
    )
    if process.stdout is not None:
        async for raw in process.stdout:
            lines.append(raw.decode(errors="replace").rstrip())
            heard(lines[-1])
    status = await process.wait()
    return Ran(
        command=" ".join(command),
        status=status,
        seconds=round(time.monotonic() - began, 1),
        tail=tuple(lines[-_TAIL:]),
        lines=tuple(lines),
    )


@contextmanager
def without_java() -> Iterator[dict[str, str]]:
    """Give an environment in which no Java can be found on the PATH or by JAVA_HOME.

    A folder that has one stands in it as links to everything else that it holds.
    """
    with tempfile.TemporaryDirectory(prefix="mia-path-") as mirrors:
        folders = [
            _mirror(Path(folder), Path(mirrors) / str(number))
            if (Path(folder) / "java").exists()
            else folder
            for number, folder in enumerate(os.environ.get("PATH", "").split(os.pathsep))
        ]
        yield {"PATH": os.pathsep.join(folders), "JAVA_HOME": ""}


def _mirror(folder: Path, mirror: Path) -> str:
    mirror.mkdir()
    for program in folder.iterdir():
        if not program.name.startswith("java"):
            (mirror / program.name).symlink_to(program)
    return str(mirror)
