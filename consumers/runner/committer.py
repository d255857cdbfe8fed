"""Group commit without waiting: what finished while the last commit was in flight goes into the
next.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import structlog

from storage.ports import PendingCommit

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from storage.ports import Emitted, Ledger, Outcome

_log = structlog.get_logger(__name__)
_LIMIT = 256


class Committer:
    """One task that commits; many that wait for it. `emit` is called with what a commit
    appended.
    """

    def __init__(
        self, ledger: Ledger, *, lease_s: float, emit: Callable[[tuple[Emitted, ...]], None]
    ) -> None:
        self._ledger = ledger
        self._lease_s = lease_s
        self._emit = emit
        self._queue: deque[tuple[PendingCommit, asyncio.Future[Outcome]]] = deque()
        self._wake = asyncio.Event()
        self.commits = 0
        self.units = 0

    def submit(self, unit: PendingCommit) -> asyncio.Future[Outcome]:
        """Queue a unit; the future is its outcome."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._queue.append((unit, future))
        self._wake.set()
        return future

    async def run(self) -> None:
        """Commit what is queued, for ever."""
        while True:
            if not self._queue:
                self._wake.clear()
                await self._wake.wait()
            group = self._next_group()
            await self._commit(group)

    def _next_group(self) -> list[tuple[PendingCommit, asyncio.Future[Outcome]]]:
        """The longest run of queued units that touch different streams."""
        group: list[tuple[PendingCommit, asyncio.Future[Outcome]]] = []
        touched: set[UUID] = set()
        while self._queue and len(group) < _LIMIT:
            unit = self._queue[0][0]
            if unit.step is not None:
                own = {entry.stream for entry in unit.step.entries}
                if unit.step.alone and group:
                    break
                if not touched.isdisjoint(own):
                    break
                touched |= own
            group.append(self._queue.popleft())
            if unit.step is not None and unit.step.alone:
                break
        return group

    async def _commit(self, group: list[tuple[PendingCommit, asyncio.Future[Outcome]]]) -> None:
        units = [unit for unit, _ in group]
        delay = 0.05
        while True:
            try:
                result = await self._ledger.commit(units, lease_s=self._lease_s)
            except ConnectionError as error:
                _log.warning("commit waits for the database", error=str(error))
                await asyncio.sleep(delay)
                delay = min(1.0, delay * 2)
                continue
            except Exception as error:  # noqa: BLE001 - a fault of one unit must not stop the others
                await self._fault(group, error)
                return
            break
        self.commits += 1
        self.units += len(units)
        if result.emitted:
            self._emit(result.emitted)
        for (_, future), outcome in zip(group, result.outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)

    async def _fault(
        self, group: list[tuple[PendingCommit, asyncio.Future[Outcome]]], error: Exception
    ) -> None:
        """A unit that the database refuses fails alone: the group is committed one by one."""
        if len(group) > 1:
            for member in group:
                await self._commit([member])
            return
        _log.error("the database refused a commit", error=str(error), exc_info=error)
        future = group[0][1]
        if not future.done():
            future.set_exception(error)


__all__ = ["Committer"]
