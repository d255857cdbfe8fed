"""One worker process: lanes of stages over one log, started in order and drained in reverse."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import structlog

from consumers.runner.attempt import Attempts
from consumers.runner.committer import Committer
from consumers.runner.context import Context
from consumers.runner.dispatch import Claims, Dispatcher
from consumers.runner.express import Express
from consumers.runner.intake import Intake
from consumers.runner.publisher import Publisher
from consumers.runner.watchdog import Watchdog
from mia_events import topics
from mia_events.policies.retry import RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping
    from typing import Any
    from uuid import UUID

    from consumers.runner.admit import Admission
    from consumers.runner.isolate import Isolation
    from consumers.runner.log import EventLog, Record
    from consumers.runner.perform import Performer
    from consumers.runner.sweeper import Sweeper
    from mia_events.steps import Stage, Step, Task
    from storage.ports import Ledger

_log = structlog.get_logger(__name__)
_LEAVE_S = 5.0


class WorkerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker works. `slots`: commands at once; `lease_s`: how long a claim outlives its
    worker; `local_dispatch`: go on with a stream's next command without a trip through the log.
    """

    slots: int = 64
    lease_s: float = 30.0
    drain_s: float = 20.0
    stuck_s: float = 60.0
    local_dispatch: bool = True
    retries: RetryPolicy = RetryPolicy()


class Lane:
    """Stages that share a database role: one dispatcher, one committer, one intake per topic."""

    def __init__(
        self,
        *,
        ledger: Ledger,
        log: EventLog,
        worker_no: int,
        stages: Mapping[str, Stage],
        performer: Performer,
        options: WorkerOptions,
        dead_letter_step: Callable[[Task, BaseException], Step],
        malformed: Callable[[Record, str], Awaitable[None]],
        isolation: Isolation | None = None,
    ) -> None:
        self._log = log
        self._options = options
        self._claims = Claims(worker_no)
        self.context = Context(ledger)
        self.publisher = Publisher(log, ledger, run_id=self.context.run_id, mine=self._mine)
        self.committer = Committer(ledger, lease_s=options.lease_s, emit=self.publisher.publish)
        self.attempts = Attempts(
            ledger=ledger,
            committer=self.committer,
            context=self.context,
            performer=performer,
            stages=stages,
            next_claim=self._next_claim,
            dead_letter_step=dead_letter_step,
            emit=self.publisher.publish,
        )
        self.intakes: dict[str, Intake] = {}
        self.dispatcher = Dispatcher(
            ledger=ledger,
            context=self.context,
            attempts=self.attempts,
            claims=self._claims,
            retries=options.retries,
            isolation=isolation,
            slots=options.slots,
            lease_s=options.lease_s,
            intakes=self.intakes,
        )
        self.express = Express(ledger, self.dispatcher, tuple(stages))
        for topic in stages:
            self.intakes[topic] = Intake(
                log,
                topic=topic,
                group=topics.group_of(topic),
                offer=self.dispatcher.offer,
                full=self.dispatcher.full,
                malformed=malformed,
                revoked=self.dispatcher.revoked,
            )

    def _mine(self, stream: UUID, seq: int) -> bool:
        return self.dispatcher.started(stream, seq)

    def _next_claim(self, topic: str, stream: UUID) -> int | None:
        """A claim on a stream's next command, when this process owns its key in that stage's
        group.
        """
        intake = self.intakes.get(topic)
        if intake is None or not self._options.local_dispatch or self.dispatcher.stopping:
            return None
        partition = self._log.partition_of(topic, str(stream).encode())
        if partition is None or not intake.owns(partition):
            return None
        return self._claims.next()

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the worker does."""
        return [
            self.committer.run(),
            self.publisher.run(),
            self.publisher.mark_forever(),
            self.dispatcher.run(),
            self.dispatcher.renew_forever(),
            self.express.run(),
            *(intake.run() for intake in self.intakes.values()),
        ]

    async def drain(self) -> None:
        """Stop taking, let what runs end, publish it, commit the offsets."""
        for intake in self.intakes.values():
            intake.stopping = True
        await self.dispatcher.drain(budget_s=self._options.drain_s)
        await self.publisher.drain(budget_s=5)
        done = self.dispatcher
        _log.info("drained", steps=done.steps, retried=done.retried, lost=done.lost)


class Worker:
    """Lanes, admission and sweeper of one process."""

    def __init__(
        self,
        lanes: list[Lane],
        *,
        log: EventLog,
        options: WorkerOptions,
        admission: Admission | None = None,
        sweeper: Sweeper | None = None,
    ) -> None:
        self.lanes = lanes
        self._log = log
        self._options = options
        self._admission = admission
        self._sweeper = sweeper
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ask for a graceful end."""
        self._stop.set()

    async def run(self) -> None:
        """Work until stopped; raises what ended a part of the worker unexpectedly."""
        if self._sweeper is not None:
            await self._topics(self._sweeper)
        parts = [part for lane in self.lanes for part in lane.background()]
        if self._admission is not None:
            parts += self._admission.background()
        if self._sweeper is not None:
            parts += self._sweeper.background()
        parts.append(Watchdog(limit_s=self._options.stuck_s).run())
        tasks = [asyncio.ensure_future(part) for part in parts]
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait([*tasks, stop], return_when=asyncio.FIRST_COMPLETED)
            ended = [task for task in tasks if task.done()]
            _log.info("draining")
            await asyncio.gather(*(lane.drain() for lane in self.lanes))
        finally:
            for task in (*tasks, stop):
                task.cancel()
            await asyncio.gather(*tasks, stop, return_exceptions=True)
            await self._leave_in_time()
        for task in ended:
            task.result()

    async def _topics(self, sweeper: Sweeper) -> None:
        """Wait for the log and the database, unless asked to end."""
        while not self._stop.is_set():
            try:
                await sweeper.make_topics()
            except ConnectionError as error:
                _log.warning("waiting for the log and the database", error=str(error))
                await asyncio.sleep(0.5)
            else:
                return

    async def _leave_in_time(self) -> None:
        """Leave the groups; a broker that is gone for good notices by itself."""
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._leave()
        except TimeoutError:
            _log.warning("the log does not answer: left without a word to it")

    async def _leave(self) -> None:
        if self._admission is not None:
            await self._admission.close()
        for lane in self.lanes:
            for intake in lane.intakes.values():
                await intake.close()
        await self._log.close()


__all__ = ["Lane", "Worker", "WorkerOptions"]
