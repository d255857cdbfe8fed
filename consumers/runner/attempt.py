"""One attempt at one command: drive its handler, record what it asked for, commit what it
returns.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import msgspec
import structlog

from consumers.runner.context import Lost
from consumers.runner.drive import Ask, Drive
from mia_events.commits import step_commit
from mia_events.lifecycle import TABLES, advance
from mia_events.quoting import clean
from mia_events.steps import Late, Poison, Transient
from schemas.envelope import Unreadable, encode_payload
from schemas.events import event_type
from storage.ports import Claimed, DeadLetterRow, EffectRow, PendingCommit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from consumers.runner.committer import Committer
    from consumers.runner.context import Context
    from consumers.runner.perform import Performer
    from mia_events.effect_codec import Reply
    from mia_events.steps import Handler, Stage, Step, Task
    from storage.ports import Emitted, Ledger, Outcome

_log = structlog.get_logger(__name__)


class Conflict(Exception):
    """Another worker's effect was recorded first."""


class Attempts:
    """Runs attempts. `next_claim(topic, stream)` gives a claim number when this process may go on
    with a stream's next command itself, else None.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        committer: Committer,
        context: Context,
        performer: Performer,
        stages: Mapping[str, Stage],
        next_claim: Callable[[str, UUID], int | None],
        dead_letter_step: Callable[[Task, BaseException], Step],
        emit: Callable[[tuple[Emitted, ...]], None],
    ) -> None:
        self._ledger = ledger
        self._committer = committer
        self._context = context
        self._performer = performer
        self._stages = stages
        self._next_claim = next_claim
        self._dead_letter_step = dead_letter_step
        self._emit = emit

    async def run(self, claimed: Claimed) -> Claimed | None:
        """Handle a claimed command; the next one of the stream when it was claimed with the commit.

        Raises `Lost`, `Transient`, `Late`, `Poison` and what a defective handler raises.
        """
        task = await self._task(claimed)
        handler = self._handler(claimed.topic, task)
        recorded = await self._recorded(claimed) if claimed.begun else []
        while True:
            drive = Drive(handler, task, recorded, claim=claimed.claim)
            try:
                step = await self._finish(drive, task)
                return await self._commit(task, step, claimed, drive.take())
            except Conflict:
                recorded = await self._recorded(claimed)
            finally:
                drive.close()

    async def _task(self, claimed: Claimed) -> Task:
        try:
            return await self._context.task(claimed)
        except Unreadable as error:
            message = f"a stored event cannot be read: {error}"
            raise Poison(message) from error

    def _handler(self, topic: str, task: Task) -> Handler:
        stage = self._stages.get(topic, {})
        try:
            return stage[type(task.command)]
        except KeyError:
            message = f"no handler for {event_type(task.command)} on {topic}"
            raise Poison(message) from None

    async def _recorded(self, claimed: Claimed) -> list[EffectRow]:
        return await self._ledger.effects(claimed.run_no, claimed.event_id)

    async def _finish(self, drive: Drive, task: Task) -> Step:
        while drive.step is None:
            if drive.must_record:
                await self._record(drive.take())
            if len(drive.asks) == 1:
                ask = drive.asks[0]
                drive.give(ask, await self._performer.perform(ask.effect, task))
            else:
                await self._together(drive, task)
        return drive.step

    async def _together(self, drive: Drive, task: Task) -> None:
        """Perform several at once; each is recorded as it arrives.

        One that is to be tried again ends the attempt when the others have come to their end: what
        they reply is kept, and only the failed ones are performed again.
        """
        running = {
            asyncio.ensure_future(self._performer.perform(ask.effect, task)): ask
            for ask in drive.asks
        }
        again: list[Transient | Late] = []
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                arrived = [(running.pop(future), future) for future in done]
                again += await self._arrived(drive, arrived)
        finally:
            for future in running:
                future.cancel()
        if again:
            raise min(again, key=lambda error: isinstance(error, Late))

    async def _arrived(
        self, drive: Drive, done: list[tuple[Ask, asyncio.Task[Reply]]]
    ) -> list[Transient | Late]:
        """Keep what came before anything that failed is raised: it must not be called again.
        Returns the failures that are to be tried again.
        """
        failures = [error for _, future in done if (error := future.exception()) is not None]
        for ask, future in sorted(done, key=lambda pair: pair[0].ordinal):
            if future.exception() is None:
                drive.give(ask, future.result())
        if drive.step is None and drive.asks:
            rows = drive.take()
            if rows:
                await self._record(rows)
        again = [error for error in failures if isinstance(error, Transient | Late)]
        for error in failures:
            if error not in again:
                raise error
        return again

    async def _record(self, rows: tuple[EffectRow, ...]) -> None:
        outcome = await self._committer.submit(PendingCommit(effects=rows))
        if outcome == "conflict":
            raise Conflict

    async def _commit(
        self, task: Task, step: Step, claimed: Claimed, rows: tuple[EffectRow, ...]
    ) -> Claimed | None:
        rule = advance(task.kind, TABLES[task.kind], task.status, event_type(step.event))
        claim = self._next_claim(rule.topic, task.stream) if rule.topic is not None else None
        commit = step_commit(
            task, step, claim=claimed.claim, attempt=claimed.attempt, next_claim=claim
        )
        outcome: Outcome = await self._committer.submit(PendingCommit(effects=rows, step=commit))
        if outcome == "conflict":
            raise Conflict
        if outcome == "lost":
            self._context.forget(task.stream)
            raise Lost
        if rule.terminal:
            self._context.forget(task.stream)
        else:
            self._context.appended(task, step.event)
        if claim is None or rule.topic is None:
            return None
        return msgspec.structs.replace(
            claimed,
            version=task.version + 1,
            claim=claim,
            status=rule.status,
            topic=rule.topic,
            event_id=commit.entries[0].event_id,
            attempt=1,
            failures=0,
            isolated_deaths=0,
            begun=False,
            history=(),
        )

    async def bury(self, claimed: Claimed, error: BaseException) -> None:
        """Dead-letter a claimed command: seal it, and end its stream so that no group waits.

        Raises `Lost`.
        """
        history = claimed.history
        try:
            task = await self._context.task(claimed)
        except Unreadable:
            _log.exception(
                "a stream with an unreadable event cannot be ended", stream=str(claimed.stream)
            )
            raise
        record = encode_payload(task.command) if not history else history[-1]
        text = clean(f"{type(error).__name__}: {error}")[:2000]
        self._emit(
            await self._ledger.dead_letter(
                DeadLetterRow(
                    id=uuid5(claimed.event_id, "dead letter"),
                    run_no=claimed.run_no,
                    error_class="late" if isinstance(error, Late) else type(error).__name__.lower(),
                    message=text,
                    origin=f"{claimed.topic} {event_type(task.command)}",
                    record=record,
                    attempts=claimed.attempt,
                    stream=claimed.stream,
                    event_id=claimed.event_id,
                )
            )
        )
        step = self._dead_letter_step(task, error)
        commit = step_commit(task, step, claim=claimed.claim, attempt=claimed.attempt)
        await self._committer.submit(PendingCommit(step=commit))
        self._context.forget(claimed.stream)
        _log.warning(
            "dead letter",
            stream=str(claimed.stream),
            command=event_type(task.command),
            error=text,
            attempts=claimed.attempt,
        )


__all__ = ["Attempts", "Conflict"]
