"""Runs the engine's process: its surroundings, its time limit, its end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from consumers.train.points import VARIABLE
from mia_events.learning.handover import LEASH
from mia_events.steps import Transient
from ops.installing import FOREIGN_PROCESS

__all__ = ["Launch", "run", "surroundings"]

_ENGINE = Path(__file__).resolve().parents[2] / "consumers" / "train" / "engine" / "__main__.py"
_LOG: Final = "log.txt"
_TAIL_LINES: Final = 15
#: What the engine may see of our surroundings: no secret is among it.
_SEEN: Final = (
    "PATH",
    "HOME",
    "LANG",
    "LC_",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_",
    "NVIDIA_",
    "NCCL_",
)


@dataclass(frozen=True)
class Launch:
    """How the engine is started: with which Python, as how many processes, for how long."""

    python: Path
    processes: int = 1
    limit_s: float = 3_600.0

    def argv(self, folder: Path) -> list[str]:
        """Return the command for a job's folder; several processes are torchrun's to start."""
        one = [str(_ENGINE), str(folder)]
        if self.processes == 1:
            return [str(self.python), *one]
        several = ["--standalone", f"--nproc-per-node={self.processes}"]
        return [str(self.python), "-m", "torch.distributed.run", *several, *one]


def surroundings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that the engine gets."""
    seen = {name: value for name, value in environ.items() if name.startswith((*_SEEN, VARIABLE))}
    return {**seen, **FOREIGN_PROCESS, LEASH: "1", "PYTHONHASHSEED": "0"}


async def run(launch: Launch, folder: Path) -> None:
    """Run the engine on a folder to its end. It ends with us, whatever ends us.

    Raises:
        Transient: it died, failed or took too long; the message has the end of its log.
    """
    with (folder / _LOG).open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *launch.argv(folder),
            cwd=folder,
            env=surroundings(),
            stdin=asyncio.subprocess.PIPE,  # closed by our death, which it takes for its own
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        status = await asyncio.wait_for(process.wait(), launch.limit_s)
    except TimeoutError:
        message = f"the update was not done within {launch.limit_s:g} s{_tail(folder)}"
        raise Transient(message) from None
    finally:
        await _end(process)
    if status:
        raise Transient(f"the engine {_how(status)}{_tail(folder)}")


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of the process and of those that it started, and wait for it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await asyncio.shield(process.wait())


def _how(status: int) -> str:
    if status > 0:
        return f"failed with status {status}"
    return f"was killed by {signal.Signals(-status).name}, perhaps for want of memory"


def _tail(folder: Path) -> str:
    lines = (folder / _LOG).read_text(errors="replace").strip().splitlines()
    return ":\n" + "\n".join(lines[-_TAIL_LINES:]) if lines else ""
