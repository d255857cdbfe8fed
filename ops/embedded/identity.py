"""Which process is meant: a pid alone is reused, after a reboot at once."""

import contextlib
import os
import signal
import time
from pathlib import Path

import msgspec
import psutil

__all__ = ["Identity", "end", "identify", "is_alive", "load", "save"]


class Identity(msgspec.Struct, frozen=True):
    """A process: its pid and a mark of its start that no later process with this pid shares."""

    pid: int
    started: str


def _boot() -> str:
    path = Path("/proc/sys/kernel/random/boot_id")
    return path.read_text().strip() if path.exists() else str(int(psutil.boot_time()))


def identify(pid: int) -> Identity | None:
    """Return the identity of a living process; None for a dead one, a zombie included."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return Identity(pid, f"{_boot()}:{_start_mark(process)}")
    except (psutil.NoSuchProcess, ProcessLookupError, FileNotFoundError):
        return None


def _start_mark(process: psutil.Process) -> str:
    """Return the start in ticks since boot where /proc says so: it ignores changes of the clock."""
    stat = Path(f"/proc/{process.pid}/stat")
    if stat.exists():
        return stat.read_text().rpartition(")")[2].split()[19]
    return f"{process.create_time():.2f}"


def is_alive(identity: Identity) -> bool:
    """Tell whether exactly this process still runs."""
    return identify(identity.pid) == identity


def save(path: Path, pid: int) -> None:
    """Write the identity of `pid` to `path`; a process that is already dead leaves no file."""
    identity = identify(pid)
    if identity is not None:
        path.write_bytes(msgspec.json.encode(identity))


def load(path: Path) -> Identity | None:
    """Read the living process that `path` names; None when it is gone, or the file is torn."""
    try:
        identity = msgspec.json.decode(path.read_bytes(), type=Identity)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    return identity if is_alive(identity) else None


def end(identity: Identity, first: signal.Signals, patience_s: float) -> bool:
    """Stop a process that is not our child: `first`, then after `patience_s` SIGKILL.

    Returns whether SIGKILL was needed.
    """
    if _signal_and_wait(identity, first, patience_s):
        return False
    _signal_and_wait(identity, signal.SIGKILL, 10.0)
    return True


def _signal_and_wait(identity: Identity, sig: signal.Signals, patience_s: float) -> bool:
    if not is_alive(identity):
        return True
    with contextlib.suppress(ProcessLookupError):
        os.kill(identity.pid, sig)
    deadline = time.monotonic() + patience_s
    while is_alive(identity):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
