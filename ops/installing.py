"""Runs installers: long commands that say from time to time that they live."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.errors import Refused

__all__ = ["FOREIGN_PROCESS", "Installer", "Progress", "run"]

_SAY_EVERY_S = 15.0
FOREIGN_PROCESS = {
    # Byte code is written on first use, whatever the caller's shell says: without it every start of
    # a server compiles for half a minute what it imports.
    "PYTHONDONTWRITEBYTECODE": "",
    # Nothing is imported from the folder that it starts in, nor by what it starts itself.
    "PYTHONSAFEPATH": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Installer:
    """Makes the environment of `python`: with uv, which shares one cache among all, or pip."""

    python: Path
    uv: str
    progress: Progress

    def make(self, name: str) -> None:
        """Create an empty environment; `name` is for the reader."""
        python = sys.executable
        tool = [self.uv, "venv", "--python", python] if self.uv else [python, "-m", "venv"]
        command = [*tool, str(self.python.parents[1])]
        run(f"creating the {name} environment", command, self.progress)

    def install(self, what: str, arguments: Sequence[str]) -> None:
        """Install what `arguments` name."""
        python = str(self.python)
        uv = [self.uv, "pip", "install", "--python", python]
        tool = uv if self.uv else [python, "-m", "pip", "install"]
        run(f"installing {what} (a download the first time)", [*tool, *arguments], self.progress)


def run(what: str, command: Sequence[str], progress: Progress) -> str:
    """Run a command to its end, saying from time to time that it lives; returns its output."""
    progress(what)
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **FOREIGN_PROCESS},
    )
    output, errors = _wait(process, lambda: progress(f"still {what}: {_since(began)}"))
    if process.returncode != 0:
        last = "\n".join((errors or output).strip().splitlines()[-12:])
        raise Refused(
            f"{what} failed:\n{last}",
            "If the network or the disk is the reason, mend it and repeat; nothing was left half"
            " made that counts as done.",
        )
    return output


def _since(began: float) -> str:
    return f"{time.monotonic() - began:.0f} s"


def _wait(process: subprocess.Popen[str], say: Callable[[], None]) -> tuple[str, str]:
    """Return what the process wrote to standard output and standard error."""
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.communicate(timeout=_SAY_EVERY_S)
            say()
    finally:
        if process.returncode is None:  # we are interrupted: leave nothing behind
            process.kill()
            process.wait()
