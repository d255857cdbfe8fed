"""Named points at which an update can be killed, for tests that prove that a kill changes nothing.

`MIA_TRAIN_CRASH=after_backward@/some/file` kills the process that reaches the point first, and no
other: whoever creates the file dies. Several of them stand with commas between. Nothing is set in
ordinary use.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Final, Literal, get_args

Point = Literal[
    "after_load",
    "after_forward",
    "after_backward",
    "before_export",
    "after_export",
    "after_artifacts",
    "before_result",
]
POINTS: Final[tuple[Point, ...]] = get_args(Point)
VARIABLE: Final = "MIA_TRAIN_CRASH"


def point(name: Point) -> None:
    """Die here, if that was asked for and has not happened yet."""
    for asked in os.environ.get(VARIABLE, "").split(","):
        wanted, _, marker = asked.partition("@")
        if wanted == name and _is_first(Path(marker)):
            os.kill(os.getpid(), signal.SIGKILL)


def _is_first(marker: Path) -> bool:
    try:
        marker.open("x").close()
    except FileExistsError:
        return False
    return True


__all__ = ["POINTS", "VARIABLE", "Point", "point"]
