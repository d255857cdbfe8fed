"""Since when a planner version has been missing at all servers, as far as this process saw."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final
from uuid import UUID

from consumers.runner.context import Lru

_KEPT: Final = 1_024
#: Without a look for so long nobody knows: the stack may have been down, or the run paused.
_GAP_S: Final = 600.0
Key = tuple[UUID, str]


class Missing:
    """Looks at versions for commands, by (event, version)."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: Lru[Key, tuple[float, float]] = Lru(_KEPT)

    def missed(self, key: Key) -> float:
        """It is missing now; for how many seconds without a break."""
        now = self._clock()
        first, last = self._seen.get(key) or (now, now)
        if now - last > _GAP_S:
            first = now
        self._seen.put(key, (first, now))
        return now - first

    def found(self, key: Key) -> None:
        """It answered."""
        self._seen.drop(key)


__all__ = ["Missing"]
