"""Starting the supervisor as a process of its own, without importing what it runs."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ops.embedded.state import Home

__all__ = ["start_detached"]

_ROOT = Path(__file__).parents[2]


def start_detached(home: Home, environ: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the supervisor in a session of its own, so that it outlives this terminal."""
    home.create()
    path = os.pathsep.join(filter(None, (str(_ROOT), environ.get("PYTHONPATH", ""))))
    with (home.logs / "supervisor.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "ops.embedded.daemon"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={**environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        )
