"""The children's logs: files that the children write themselves, kept under a size."""

import shutil
from pathlib import Path

__all__ = ["CAP_BYTES", "cap", "since", "tail"]

CAP_BYTES = 16 * 1024 * 1024


def cap(folder: Path, limit: int = CAP_BYTES) -> None:
    """Move what a log over `limit` bytes holds to `NAME.log.1`, and empty the log.

    The children append to an open file, so the file itself stays; what one writes between the copy
    and the cut is lost, which a log can bear.
    """
    for path in folder.glob("*.log"):
        if path.stat().st_size > limit:
            shutil.copyfile(path, path.with_suffix(".log.1"))
            with path.open("r+b") as file:
                file.truncate(0)


def tail(path: Path, lines: int) -> str:
    """Return the last lines of a log; empty when there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            content = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(content.splitlines()[-lines:])


def since(path: Path, position: int) -> tuple[int, str]:
    """Return the new end of a log, and what was written after `position`.

    A log that was cut is read from its start; a line being written waits for its end.
    """
    try:
        size = path.stat().st_size
        if size == position:
            return position, ""
        with path.open("rb") as file:
            file.seek(position if position < size else 0)
            start, content = file.tell(), file.read()
    except FileNotFoundError:
        return 0, ""
    whole = content[: content.rfind(b"\n") + 1]
    return start + len(whole), whole.decode(errors="replace")
