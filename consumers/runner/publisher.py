"""Publish after commit: what the ledger appended goes to its topic; what fails is the sweeper's."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from schemas.envelope import encode_wire
from storage.ports import Sent

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable
    from uuid import UUID

    from consumers.runner.log import EventLog, Place
    from storage.ports import Emitted, Ledger

_log = structlog.get_logger(__name__)
_BACKLOG = 20_000
_MARK_EVERY_S = 0.5
#: What this process has begun already is sent together with what follows within this time.
_LINGER_S = 0.1


class Publisher:
    """Sends in order, marks where things lie in batches. `mine` says whether this process has
    already started an event (its mark is then of no use).
    """

    def __init__(
        self,
        log: EventLog,
        ledger: Ledger,
        *,
        run_id: Callable[[int], Awaitable[UUID]],
        mine: Callable[[UUID, int], bool],
    ) -> None:
        self._log = log
        self._ledger = ledger
        self._run_id = run_id
        self._mine = mine
        self._queue: asyncio.Queue[Emitted] = asyncio.Queue(_BACKLOG)
        self._lingering: list[Emitted] = []
        self._sent: list[Sent] = []
        self._acknowledged: list[UUID] = []
        self._in_flight = 0
        self.published = 0
        self.left_to_sweeper = 0

    def publish(self, emitted: Iterable[Emitted]) -> None:
        """Queue events; when the backlog is full the rest is left to the sweeper."""
        for event in emitted:
            if event.claimed:
                self._linger(event)
            else:
                self._enqueue(event)

    def _enqueue(self, event: Emitted) -> None:
        try:
            self._queue.put_nowait(event)
        except asyncio.QueueFull:
            self.left_to_sweeper += 1

    def _linger(self, event: Emitted) -> None:
        """Nobody waits for this record: many at once are fewer requests to the broker."""
        if not self._lingering:
            asyncio.get_running_loop().call_later(_LINGER_S, self._flush)
        self._lingering.append(event)

    def _flush(self) -> None:
        lingering, self._lingering = self._lingering, []
        for event in lingering:
            self._enqueue(event)

    async def run(self) -> None:
        """Send what is queued, for ever."""
        while True:
            event = await self._queue.get()
            try:
                place = await self._log.send(
                    event.topic,
                    key=str(event.stream).encode(),
                    value=encode_wire(event, run=await self._run_id(event.run_no)),
                )
            except ConnectionError as error:
                self._left(error)
                await asyncio.sleep(0.2)
                continue
            self.published += 1
            self._in_flight += 1
            place.add_done_callback(partial(self._acknowledge, event))

    def _acknowledge(self, event: Emitted, place: asyncio.Future[Place]) -> None:
        """The broker has a record, or gave it up."""
        self._in_flight -= 1
        if place.cancelled() or (error := place.exception()) is not None:
            self._left(None if place.cancelled() else error)
            return
        where = place.result()
        if event.outbound:
            self._acknowledged.append(event.id)
        elif not self._mine(event.stream, event.seq):
            self._sent.append(Sent(event.stream, event.seq, where.partition, where.offset))

    def _left(self, error: BaseException | None) -> None:
        self.left_to_sweeper += 1
        _log.debug("not published, left to the sweeper", error=str(error))

    async def mark_forever(self) -> None:
        """Write the marks down now and then."""
        while True:
            await asyncio.sleep(_MARK_EVERY_S)
            await self.write_marks()

    async def write_marks(self) -> None:
        """Tell the ledger where things lie and which facts are acknowledged."""
        sent, self._sent = self._sent, []
        done, self._acknowledged = self._acknowledged, []
        try:
            if sent:
                await self._ledger.mark_sent(sent)
            if done:
                await self._ledger.acknowledge(done)
        except ConnectionError as error:
            _log.debug("marks lost, the sweeper will send again", error=str(error))

    async def drain(self, *, budget_s: float) -> None:
        """Send what is queued and write the marks, within `budget_s` seconds."""
        self._flush()
        try:
            async with asyncio.timeout(budget_s):
                while not self._queue.empty() or self._in_flight:  # noqa: ASYNC110 - once, at the end
                    await asyncio.sleep(0.01)
        except TimeoutError:
            self.left_to_sweeper += self._queue.qsize()
        await self.write_marks()


__all__ = ["Publisher"]
