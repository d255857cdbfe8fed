"""The children's logs: files that the children write themselves, kept under a size."""

import shutil
from pathlib import Path

__all__ = ["CAP_BYTES", "cap", "tail"]

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
