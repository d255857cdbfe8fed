"""An event loop whose clock is virtual: when nothing is ready, time jumps to the next timer."""

import asyncio
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

__all__ = ["EPOCH", "Stalled", "VirtualLoop", "run_virtually"]

_T = TypeVar("_T")
#: What the virtual clock shows when a simulation starts.
EPOCH = datetime(2030, 1, 1, tzinfo=UTC)


class Stalled(RuntimeError):
    """Nothing is left that could ever happen, and the simulation has not ended."""


class VirtualLoop(asyncio.BaseEventLoop):
    """A loop without IO. Its time, in seconds from 0, moves only by its timers."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self  # the base class asks it how long to wait, and it does not

    def time(self) -> float:
        """Seconds since the start of the simulation."""
        return self._now

    def clock(self) -> datetime:
        """The virtual time of day."""
        return EPOCH + timedelta(seconds=self._now)

    def select(self, timeout: float | None) -> list[Any]:
        """Wait, that is: move the clock."""
        if timeout is None:
            raise Stalled("every task waits and no timer is set")
        self._now += timeout
        return []

    def _process_events(self, event_list: list[Any]) -> None:
        """Nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody calls from another thread."""


def run_virtually(main: Callable[[VirtualLoop], Coroutine[Any, Any, _T]]) -> _T:
    """Run a coroutine to its end on a virtual loop of its own."""
    loop = VirtualLoop()
    try:
        return loop.run_until_complete(main(loop))
    finally:
        pending = asyncio.all_tasks(loop)
        for task in pending:
            task.cancel()
        if pending:
            loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
        loop.close()
