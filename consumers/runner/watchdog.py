"""Ends a process whose event loop no longer turns: its leases run out and others take over."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import sys
import threading
import time

EXIT_STUCK = 70


class Watchdog:
    """A thread that expects a sign of life at least every `limit_s` seconds."""

    def __init__(self, *, limit_s: float) -> None:
        self._limit_s = limit_s
        self._alive = time.monotonic()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._stopped = threading.Event()

    async def run(self) -> None:
        """Give signs of life, for ever."""
        self._thread.start()
        try:
            while True:
                self._alive = time.monotonic()
                await asyncio.sleep(min(1.0, self._limit_s / 4))
        finally:
            self._stopped.set()

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._stopped.wait(min(1.0, self._limit_s / 4)):
            now = time.monotonic()
            if now - last > self._limit_s / 2:
                self._alive = (
                    now  # the whole process stood still (SIGSTOP): the loop is not to blame
                )
            last = now
            if now - self._alive > self._limit_s:
                sys.stderr.write(f"the event loop has stood still for {self._limit_s} s; stacks:\n")
                faulthandler.dump_traceback(all_threads=True)
                os._exit(EXIT_STUCK)


__all__ = ["EXIT_STUCK", "Watchdog"]
