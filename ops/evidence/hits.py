"""Signals to the parts of a running stack."""

import os
import signal
from pathlib import Path

from ops.embedded import report
from ops.embedded.state import Home

__all__ = ["hit"]


def hit(home: Path, part: str, sig: signal.Signals = signal.SIGKILL) -> int:
    """Signal a child of the stack in a state folder, vLLM with its engine; its pid, 0 when it is
    down.
    """
    pid = report.read(Home(home)).child(part).pid
    if pid:
        (os.killpg if part.startswith("vllm") else os.kill)(pid, sig)
    return pid
