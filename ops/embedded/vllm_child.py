"""vLLM's server, started so that no kill leaves its engine behind: `python vllm_child.py …`.

Runs in the serve environment and imports nothing of ours. vLLM spawns its engine as a process that
holds the weights and outlives a server killed with -9. A spawned process first loads the script of
its parent, this one, under the name `__mp_main__`: there it asks the kernel to die with it.
"""

import ctypes
import multiprocessing
import os
import signal

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:  # it died before we asked
        os._exit(1)


def main() -> None:
    """Serve until told to stop; the options are vLLM's own."""
    # Not above: the engine loads this script too, and has its own imports.
    from vllm.entrypoints.launchers.api_server.entry import main as serve  # noqa: PLC0415

    serve()


if __name__ == "__mp_main__":
    _die_with_parent()
elif __name__ == "__main__":
    main()
