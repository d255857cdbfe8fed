"""Sweeping: send what was never sent and what the log has lost, fire timers, make missing topics.

Any number of sweepers may run; each takes over what it sends.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

import structlog

from consumers.runner.log import LogUnavailable
from mia_events import topics
from mia_events.commits import Guard, step_commit
from mia_events.lifecycle import Kind
from mia_events.steps import Step
from schemas.events import RolloutFailed
from storage.ports import PendingCommit

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from typing import Any, Protocol

    from consumers.runner.committer import Committer
    from consumers.runner.context import Context
    from consumers.runner.log import EventLog
    from consumers.runner.publisher import Publisher
    from mia_events.steps import Task
    from storage.ports import Due, Ledger

    class TopicLog(EventLog, Protocol):
        """A log whose topics can be made."""

        async def ensure_topics(
            self, names: Sequence[str], *, partitions: int, replication: int = 1
        ) -> list[str]:
            """Make the topics that are missing; the names made."""
            ...


_log = structlog.get_logger(__name__)
_LIMIT = 1000
_TOPICS_EVERY = 5


class Sweeper:
    """One round about every `every_s` seconds. `grace_s`: how long a committed event may take to be
    published and marked before it counts as never sent. `alone`: no lane of this process runs the
    publisher and the committer, so they run with the sweeper.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        log: TopicLog,
        publisher: Publisher,
        committer: Committer,
        context: Context,
        fail_question: Callable[[Task], Step],
        partitions: int,
        every_s: float = 1.0,
        grace_s: float = 3.0,
        alone: bool = False,
    ) -> None:
        self._ledger = ledger
        self._log = log
        self._publisher = publisher
        self._committer = committer
        self._context = context
        self._fail_question = fail_question
        self._partitions = partitions
        self._every_s = every_s
        self._grace_s = grace_s
        self._alone = alone
        self._groups = {topic: topics.group_of(topic) for topic in topics.COMMANDS}
        self._rounds = 0
        self.resent = 0

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the worker does."""
        if not self._alone:
            return [self.run()]
        sends = self._publisher
        return [self.run(), self._committer.run(), sends.run(), sends.mark_forever()]

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(self._every_s * random.uniform(0.7, 1.3))  # noqa: S311 - no secret
            try:
                await self.round()
            except LogUnavailable as error:
                _log.warning("sweeping waits for the log", error=str(error))
            except ConnectionError as error:
                _log.warning("sweeping waits for the database", error=str(error))

    async def round(self) -> None:
        """Timers, topics, then whatever the log does not hold."""
        await self._timers()
        if self._rounds % _TOPICS_EVERY == 0:
            await self.make_topics()
        self._rounds += 1
        began = time.monotonic()
        states = await self._log.states(self._groups)
        # What was sent while the ends were read may lie behind them without being lost.
        grace_s = max(self._grace_s, 2 * (time.monotonic() - began))
        unsent = await self._ledger.unsent(states, grace_s=grace_s, limit=_LIMIT)
        if unsent:
            self.resent += len(unsent)
            _log.info("sending again", events=len(unsent))
            self._publisher.publish(unsent)

    async def make_topics(self) -> None:
        """Make missing topics and forget what was sent to their namesakes."""
        made = await self._log.ensure_topics(topics.ALL, partitions=self._partitions)
        if made:
            _log.info("made topics", topics=made)
            await self._ledger.topics_created(made)

    async def _timers(self) -> None:
        for due in await self._ledger.overdue(limit=_LIMIT):
            await self._preempt(due)
        for run_no in await self._ledger.due_runs():
            self._publisher.publish(await self._ledger.advance(run_no))

    async def _preempt(self, due: Due) -> None:
        """End what is past its deadline, whoever is working on it."""
        for stream in await self._ledger.load(due.run_no, due.stream):
            if stream.version != due.version:
                return
            task = await self._context.task(stream)
            step = (
                Step(event=RolloutFailed(reason="timed_out"))
                if due.kind is Kind.ROLLOUT
                else self._fail_question(task)
            )
            commit = step_commit(task, step, claim=0, attempt=0, guard=Guard.VERSION)
            await self._committer.submit(PendingCommit(step=commit))
            self._context.forget(due.stream)


__all__ = ["Sweeper"]
