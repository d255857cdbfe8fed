"""Slots: what waits is unclaimed, what is claimed starts now, and what may go on goes on here."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

import structlog

from consumers.runner.context import Lost, Lru
from storage.ports import Claimed, Want

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from uuid import UUID

    from consumers.runner.attempt import Attempts
    from consumers.runner.context import Context
    from consumers.runner.intake import Intake, Offer
    from consumers.runner.isolate import Isolation
    from mia_events.policies.retry import RetryPolicy
    from storage.ports import Ledger

_log = structlog.get_logger(__name__)


class Claims:
    """Claim numbers that no other process uses: the worker's number, then a count."""

    def __init__(self, worker_no: int) -> None:
        self._next = worker_no << 32

    def next(self) -> int:
        """A claim number."""
        self._next += 1
        return self._next


class Dispatcher:
    """Starts up to `slots` commands at a time, and an eighth more of urgent ones."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        context: Context,
        attempts: Attempts,
        claims: Claims,
        retries: RetryPolicy,
        isolation: Isolation | None,
        slots: int,
        lease_s: float,
        intakes: Mapping[str, Intake],
    ) -> None:
        self._ledger = ledger
        self._context = context
        self._attempts = attempts
        self._claims = claims
        self._retries = retries
        self._isolation = isolation
        self._slots = slots
        self._reserve = max(1, slots // 8)
        self._lease_s = lease_s
        self._intakes = intakes
        self._waiting: deque[Offer] = deque()
        self._urgent: deque[Offer] = deque()
        self._wake = asyncio.Event()
        self._running: dict[UUID, tuple[Claimed, asyncio.Task[None]]] = {}
        self._started: Lru[UUID, int] = Lru(100_000)
        self.stopping = False
        self.steps = 0
        self.retried = 0
        self.lost = 0

    # --- what comes in ---------------------------------------------------------------------------

    def offer(self, offer: Offer) -> None:
        """A command from the log."""
        self._waiting.append(offer)
        self._wake.set()

    def offer_urgent(self, offer: Offer) -> None:
        """A command that goes before those from the log; one a stream."""
        waits = any(other.stream == offer.stream for other in self._urgent)
        if not waits and offer.stream not in self._running:
            self._urgent.append(offer)
            self._wake.set()

    @property
    def crowded(self) -> bool:
        """Whether a command from the log would have to wait for a slot."""
        return bool(self._waiting) or self.busy >= self._slots

    def urgent_room(self) -> int:
        """How many more urgent commands may wait here, to take the next slots that come free."""
        return self._slots - len(self._urgent)

    def full(self) -> bool:
        """Enough waits: the log should hold the rest."""
        return len(self._waiting) >= 2 * self._slots + 64

    def revoked(self, topic: str, partitions: frozenset[int]) -> None:
        """Forget what waits from partitions that are no longer ours; what runs goes on."""
        self._waiting = deque(
            offer
            for offer in self._waiting
            if offer.topic != topic or offer.partition not in partitions
        )

    def started(self, stream: UUID, seq: int) -> bool:
        """Whether this process has already started a stream's command number `seq`."""
        return (self._started.get(stream) or 0) >= seq

    @property
    def busy(self) -> int:
        """Commands being handled."""
        return len(self._running)

    def held(self) -> list[tuple[UUID, int]]:
        """The claims to be renewed."""
        return [(claimed.stream, claimed.claim) for claimed, _ in self._running.values()]

    # --- claiming --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Claim and start, for ever."""
        while True:
            if self.stopping or not self._may_start():
                self._wake.clear()
                await self._wake.wait()
                continue
            offers = self._pick()
            if offers:
                await self._claim(offers)
            else:  # everything at hand belongs to streams that run: their end wakes us
                self._wake.clear()
                await self._wake.wait()

    def _pick(self) -> list[Offer]:
        """Offers for the free slots: one per stream, none that runs or ran here."""
        picked: dict[UUID, Offer] = {}
        self._take(self._urgent, self._slots + self._reserve - self.busy, picked)
        self._take(self._waiting, self._slots - self.busy, picked)
        return list(picked.values())

    def _take(self, waiting: deque[Offer], most: int, picked: dict[UUID, Offer]) -> None:
        later: list[Offer] = []
        while waiting and len(picked) < most:
            offer = waiting.popleft()
            if self.started(offer.stream, offer.seq):
                self._intakes[offer.topic].done(offer)
            elif offer.stream in picked or offer.stream in self._running:
                later.append(offer)
            else:
                picked[offer.stream] = offer
        waiting.extendleft(reversed(later))

    def _may_start(self) -> bool:
        if self._urgent and self.busy < self._slots + self._reserve:
            return True
        return bool(self._waiting) and self.busy < self._slots

    async def _claim(self, offers: list[Offer]) -> None:
        wants = {
            offer.stream: Want(
                offer.stream, offer.seq, self._claims.next(), self._context.known(offer.stream)
            )
            for offer in offers
        }
        try:
            granted = await self._ledger.claim(list(wants.values()), lease_s=self._lease_s)
        except ConnectionError as error:
            _log.warning("claims wait for the database", error=str(error))
            self._waiting.extendleft(reversed(offers))
            await asyncio.sleep(0.2)
            return
        by_stream = {claimed.stream: claimed for claimed in granted}
        for offer in offers:
            claimed = by_stream.get(offer.stream)
            if claimed is None:  # handled, or alive elsewhere, or paused
                self._intakes[offer.topic].done(offer)
            else:
                self._start(claimed, offer)

    def _start(self, claimed: Claimed, offer: Offer) -> None:
        self._started.put(claimed.stream, claimed.version)
        task = asyncio.ensure_future(self._work(claimed, offer))
        self._running[claimed.stream] = (claimed, task)

    # --- working ---------------------------------------------------------------------------------

    async def _work(self, claimed: Claimed, offer: Offer) -> None:
        """Handle a command and, as long as the commit claimed it for us, the next of its stream."""
        current: Claimed | None = claimed
        try:
            while current is not None:
                current = await self._one(current)
                if current is not None:
                    self._started.put(current.stream, current.version)
                    self._running[current.stream] = (current, self._running[current.stream][1])
        finally:
            self._running.pop(claimed.stream, None)
            self._intakes[offer.topic].done(offer)
            self._wake.set()

    async def _one(self, claimed: Claimed) -> Claimed | None:
        try:
            if self._isolation is not None and self._isolation.needed(claimed):
                await self._isolation.run(claimed, self._attempts)
                following = None
            else:
                following = await self._attempts.run(claimed)
        except Lost:
            # A claim may be lost to nobody (a crash of the database, or given back): take it again.
            self._started.drop(claimed.stream)
            self.lost += 1
            return None
        except asyncio.CancelledError:
            self._started.drop(claimed.stream)
            raise
        except Exception as error:  # noqa: BLE001 - whatever a handler raises is classified below
            self._started.drop(claimed.stream)
            await self._failed(claimed, error)
            return None
        self.steps += 1
        return following

    async def _failed(self, claimed: Claimed, error: Exception) -> None:
        """Retry or dead-letter, by the class of the error."""
        decision = self._retries.decide(error, failures=claimed.failures, key=str(claimed.event_id))
        if decision.delay_s is None:
            try:
                await self._persist(lambda: self._attempts.bury(claimed, error))
            except Lost:  # whoever has the stream now sees to it
                self.lost += 1
            return
        self.retried += 1
        _log.info(
            "retry",
            stream=str(claimed.stream),
            topic=claimed.topic,
            delay_s=decision.delay_s,
            error=f"{type(error).__name__}: {error}",
        )
        await self._persist(
            lambda: self._ledger.release(
                claimed.stream,
                claimed.claim,
                delay_s=decision.delay_s or 0.0,
                failed=decision.counts,
            )
        )

    @staticmethod
    async def _persist(action: Callable[[], object]) -> None:
        """Do it once the database answers."""
        while True:
            try:
                await action()  # type: ignore[misc]  # every action is a coroutine function
            except ConnectionError:
                await asyncio.sleep(0.5)
            else:
                return

    # --- leases and the end ----------------------------------------------------------------------

    async def renew_forever(self) -> None:
        """Keep leases alive while work lasts; stop work whose claim is gone.

        A claim that is missing once may just have been committed; one missing twice is lost.
        """
        missing: set[int] = set()
        while True:
            await asyncio.sleep(self._lease_s / 3)
            held = self.held()
            if not held:
                continue
            try:
                alive = await self._ledger.renew(held, lease_s=self._lease_s)
            except ConnectionError:
                continue
            gone = {claim for _, claim in held} - alive
            for claimed, task in list(self._running.values()):
                if claimed.claim in gone & missing:
                    self._cancel_lost(claimed, task)
            missing = gone

    def _cancel_lost(self, claimed: Claimed, task: asyncio.Task[None]) -> None:
        self.lost += 1
        self._context.forget(claimed.stream)
        task.cancel()

    async def drain(self, *, budget_s: float) -> None:
        """Start nothing more, let what runs end within the budget, give the rest back."""
        self.stopping = True
        self._waiting.clear()
        self._urgent.clear()
        tasks = {task for _, task in self._running.values()}
        if tasks:
            await asyncio.wait(tasks, timeout=budget_s)
        left = [claimed for claimed, _ in self._running.values()]
        for _, task in list(self._running.values()):
            task.cancel()
        await asyncio.gather(*(task for task in tasks), return_exceptions=True)
        for claimed in left:
            try:
                await self._ledger.release(claimed.stream, claimed.claim, delay_s=0.0, failed=False)
            except ConnectionError:
                _log.warning("a claim could not be given back; its lease will run out")


__all__ = ["Claims", "Dispatcher"]
