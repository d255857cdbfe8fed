"""What the supervisor says of itself: one small file that others read."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from ops.embedded.spec import ChildStatus
from ops.embedded.state import Home, write_atomically

__all__ = ["Report", "disk_bytes", "memory_bytes", "read", "write"]


class Report(msgspec.Struct, frozen=True):
    """The state of a stack. `phase` is starting, up, stopping, down, failed or lost.

    `lost` is never written: the supervisor died without a word. `message` is what one waits for, or
    what failed, `chat_model` what vLLM's requests call its model. No secret stands in it: the
    database is named without its password.
    """

    phase: str
    pid: int = 0
    started: float = 0.0
    message: str = ""
    bootstrap_servers: str = ""
    postgres: str = ""
    chat_model: str = ""
    children: Sequence[ChildStatus] = ()
    notes: Sequence[str] = ()

    def child(self, name: str) -> ChildStatus:
        """Return what is known of a child; of one that is not there, that it is stopped."""
        found = (child for child in self.children if child.name == name)
        return next(found, ChildStatus(name=name, state="stopped"))


def write(home: Home, report: Report) -> None:
    """Replace the report."""
    write_atomically(home.status_file, msgspec.json.encode(report))


def read(home: Home) -> Report:
    """Return the report, corrected by who really holds the folder."""
    try:
        said = msgspec.json.decode(home.status_file.read_bytes(), type=Report)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        said = Report(phase="down")
    if home.is_held():
        return said if said.phase in {"starting", "up", "stopping"} else Report(phase="starting")
    if said.phase in {"starting", "up", "stopping"}:
        gone = "the supervisor was killed; the next `mia up` puts things in order"
        return Report(phase="lost", message=gone, started=said.started)
    return Report(phase=said.phase, message=said.message)


def disk_bytes(folder: Path) -> int:
    """Return what a folder's files take on the disk."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.lstat().st_blocks * 512
        except FileNotFoundError:  # Kafka and Postgres delete files while we look
            continue
    return total


def memory_bytes(pid: int) -> int:
    """Return the memory of a process and its descendants; pages they share count once.

    0 for a process that is gone, or not ours to look at.
    """
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        own = [getattr(info, "shared", 0) for info in (p.memory_info() for p in family)]
        resident = [p.memory_info().rss for p in family]
    except (psutil.Error, ValueError):
        return 0
    return int(sum(resident) - sum(own) + max(own, default=0))
