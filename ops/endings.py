"""How long work ends when somebody ends it."""

import asyncio
import signal
import sys
from collections.abc import Coroutine
from typing import Any, TypeVar

__all__ = ["cancel_on_sigterm", "run"]

_T = TypeVar("_T")


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run to the end. SIGTERM stops what was started, as Ctrl-C does; the exit status tells."""

    async def heeding() -> _T:
        cancel_on_sigterm()
        return await work

    try:
        return asyncio.run(heeding())
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)


def cancel_on_sigterm() -> None:
    """Let SIGTERM cancel the task that calls this."""
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
