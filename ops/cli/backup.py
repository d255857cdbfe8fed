"""`mia backup|restore`: everything in one file, and back."""

from pathlib import Path

from ops import backup as copies
from ops.connect import connections
from ops.console import console
from ops.settings import load_settings

__all__ = ["backup", "restore"]


def backup(file: Path) -> None:
    """Write the database and the artifacts of a running stack to one file, as of one moment.

    Args:
        file: Where to; it holds labels, so it is closed to other users.
    """
    settings = load_settings()
    copies.backup(settings, connections(settings), file)
    size = file.stat().st_size / 2**20
    console().print(
        f"{file} holds everything ({size:.1f} MiB); `mia restore {file}` brings it back"
    )


def restore(file: Path) -> None:
    """Fill an empty stack from a backup. The stack is down; `mia up` then goes on from there.

    Args:
        file: What `mia backup` wrote.
    """
    contents = copies.restore(load_settings(), file)
    console().print(
        f"restored what was saved at {contents.made_at:%Y-%m-%d %H:%M:%S} UTC; go on with `mia up`"
    )
