"""From the log to the dispatcher: polling apart from work, bounded queues, contiguous offsets."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import structlog

from consumers.runner.log import LogUnavailable
from mia_events.policies.watermark import Watermark

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from consumers.runner.log import EventLog, Record, Subscription

_log = structlog.get_logger(__name__)
_POLL_S = 0.5
_COMMIT_EVERY_S = 1.0


class Offer(msgspec.Struct, frozen=True, gc=False):
    """A command that the log says is waiting: its stream and version, and where it was read."""

    stream: UUID
    seq: int
    topic: str
    partition: int
    offset: int
    epoch: int


class _Pointer(msgspec.Struct, gc=False):
    """The part of an envelope that says which command it is; the ledger holds the rest."""

    stream: UUID
    seq: int


_pointer = msgspec.json.Decoder(_Pointer)


class Intake:
    """One member of one stage's group. `offer` takes a command, `full` says that the dispatcher has
    enough waiting, `malformed` dead-letters what is no command.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        topic: str,
        group: str,
        offer: Callable[[Offer], None],
        full: Callable[[], bool],
        malformed: Callable[[Record, str], Awaitable[None]],
        revoked: Callable[[str, frozenset[int]], None],
    ) -> None:
        self._log = log
        self.topic = topic
        self._group = group
        self._offer = offer
        self._full = full
        self._malformed = malformed
        self._on_revoked = revoked
        self._marks: dict[int, Watermark] = {}
        self._epochs: dict[int, int] = {}
        self._committed: dict[int, int] = {}
        self._subscription: Subscription | None = None
        self._paused = False
        self.polled = 0.0
        self.stopping = False

    def owns(self, partition: int) -> bool:
        """Whether this member may start what lies in a partition."""
        return (
            self._subscription is not None
            and not self.stopping
            and any(p == partition for _, p in self._subscription.assignment())
        )

    @property
    def ready(self) -> bool:
        """Whether this member has partitions."""
        return self._subscription is not None and bool(self._subscription.assignment())

    def done(self, offer: Offer) -> None:
        """A record needs nothing more: the watermark may pass it."""
        mark = self._marks.get(offer.partition)
        if mark is not None and self._epochs.get(offer.partition) == offer.epoch:
            mark.done(offer.offset)

    async def run(self) -> None:
        """Fetch until stopped; rejoin when the log comes back."""
        while not self.stopping:
            try:
                self._subscription = await self._log.subscribe(
                    self.topic, self._group, revoked=self._revoked
                )
                await self._poll_forever(self._subscription)
            except LogUnavailable as error:
                _log.warning("the log does not answer", topic=self.topic, error=str(error))
                await self._leave()
                await asyncio.sleep(0.5)

    async def _poll_forever(self, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        committed_at = loop.time()
        while not self.stopping:
            self._pace(subscription)
            for record in await subscription.poll(timeout_s=_POLL_S, limit=500):
                await self._take(record)
            self.polled = loop.time()
            if loop.time() - committed_at > _COMMIT_EVERY_S:
                await self.commit()
                committed_at = loop.time()

    def _pace(self, subscription: Subscription) -> None:
        """Stop fetching while the dispatcher has enough; the group goes on believing in us."""
        full = self._full()
        if full:
            subscription.pause(subscription.assignment())  # also what was assigned since
        elif self._paused:
            subscription.resume(subscription.assignment())
        self._paused = full

    async def _take(self, record: Record) -> None:
        mark = self._marks.get(record.partition)
        if mark is None or not mark.follows(
            record.offset
        ):  # a topic that was made anew starts at 0
            mark = self._marks[record.partition] = Watermark(record.offset)
            self._epochs[record.partition] = self._epochs.get(record.partition, 0) + 1
        mark.started(record.offset)
        epoch = self._epochs[record.partition]
        try:
            pointer = _pointer.decode(record.value)
        except msgspec.DecodeError as error:
            await self._malformed(record, str(error))
            mark.done(record.offset)
            return
        self._offer(
            Offer(pointer.stream, pointer.seq, self.topic, record.partition, record.offset, epoch)
        )

    def _revoked(self, partitions: frozenset[tuple[str, int]]) -> None:
        numbers = frozenset(partition for _, partition in partitions)
        for number in numbers:
            self._marks.pop(number, None)
            self._committed.pop(number, None)
        self._on_revoked(self.topic, numbers)

    async def commit(self) -> None:
        """Commit the contiguous prefix of every partition that moved."""
        if self._subscription is None:
            return
        moved = {
            number: mark.position
            for number, mark in self._marks.items()
            if mark.position != self._committed.get(number)
        }
        if moved:
            owned = {p: topic for topic, p in self._subscription.assignment()}
            await self._subscription.commit(
                {(owned[n], n): position for n, position in moved.items() if n in owned}
            )
            self._committed.update(moved)

    async def close(self) -> None:
        """Commit and leave the group."""
        self.stopping = True
        await self.commit()
        await self._leave()

    async def _leave(self) -> None:
        subscription, self._subscription = self._subscription, None
        self._marks.clear()
        self._committed.clear()
        if subscription is not None:
            await subscription.close()


__all__ = ["Intake", "Offer"]
