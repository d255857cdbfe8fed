"""Admission: from what anyone may send to what the ledger accepts."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID, uuid5

import msgspec
import structlog

from consumers.runner.log import LogUnavailable, Record, Subscription
from mia_events import ids, topics
from schemas.envelope import encode_payload
from schemas.events import QuestionAsked
from schemas.external import IncomingQuestion, Refused, decode_label, decode_question
from storage.ports import DeadLetterRow, NewQuestion

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence
    from typing import Any, TypeAlias

    from consumers.runner.log import EventLog
    from consumers.runner.publisher import Publisher
    from mia_events.steps import RunView
    from storage.ports import Artifacts, LabelStore, Ledger

    Handle: TypeAlias = Callable[[Sequence[Record]], Awaitable[None]]

_log = structlog.get_logger(__name__)
_TRY_AGAIN_S = 0.5


class Admission:
    """Takes in questions and labels. What it refuses is a dead letter that says why; the bytes,
    which may hold a label, are sealed.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        labels: LabelStore,
        artifacts: Artifacts,
        log: EventLog,
        publisher: Publisher,
    ) -> None:
        self._ledger = ledger
        self._labels = labels
        self._artifacts = artifacts
        self._log = log
        self._publisher = publisher
        self._subscriptions: list[Subscription] = []
        self.accepted = 0
        self.refused = 0

    def background(self) -> list[Coroutine[Any, Any, None]]:
        """What runs as long as the worker does."""
        return [
            self._consume(topics.QUESTION, self.questions),
            self._consume(topics.FEEDBACK, self.feedback),
            self._publisher.run(),
            self._publisher.mark_forever(),
        ]

    async def close(self) -> None:
        """Leave the groups. What was opened and not yet published is the sweeper's."""
        for subscription in self._subscriptions:
            await subscription.close()

    async def _consume(self, topic: str, handle: Handle) -> None:
        while True:
            try:
                subscription = await self._log.subscribe(
                    topic, topics.group_of(topic), revoked=lambda _: None
                )
                self._subscriptions.append(subscription)
                while True:
                    records = await subscription.poll(timeout_s=0.5, limit=500)
                    if records:
                        await self._until_taken(handle, records)
                        await subscription.commit(_next_offsets(records))
            except LogUnavailable as error:
                _log.warning("the log does not answer", topic=topic, error=str(error))
                await asyncio.sleep(_TRY_AGAIN_S)

    @staticmethod
    async def _until_taken(handle: Handle, records: Sequence[Record]) -> None:
        """Taking in is idempotent: repeat it until the database has answered."""
        while True:
            try:
                await handle(records)
            except LogUnavailable:
                raise
            except ConnectionError as error:
                _log.warning("admission waits for the database", error=str(error))
                await asyncio.sleep(_TRY_AGAIN_S)
            else:
                return

    async def questions(self, records: Sequence[Record]) -> None:
        """Accept the questions among `records`, run by run."""
        runs: dict[str, RunView | None] = {}
        by_run: dict[str, list[tuple[Record, NewQuestion]]] = {}
        for record in records:
            try:
                question = decode_question(record.value)
                run = await self._run(question.run, runs)
                new = await self._new_question(record, question, run)
            except Refused as error:
                await self.refuse(record, str(error))
                continue
            by_run.setdefault(question.run, []).append((record, new))
        for name, group in by_run.items():
            await self._accept(runs, name, group)

    async def _accept(
        self, runs: dict[str, RunView | None], name: str, group: list[tuple[Record, NewQuestion]]
    ) -> None:
        run = runs[name]
        if run is None:
            return
        accepted = await self._ledger.accept(run.run_no, [new for _, new in group])
        self._publisher.publish(accepted.emitted)
        for (record, new), outcome in zip(group, accepted.outcomes, strict=True):
            if outcome == "accepted":
                self.accepted += 1
            elif outcome == "closed":
                await self.refuse(record, f"run {name!r} admits no questions any more")
            elif outcome == "position_taken":
                message = f"position {new.position} of run {name!r} is taken by another question"
                await self.refuse(record, message)

    async def _run(self, name: str, runs: dict[str, RunView | None]) -> RunView:
        if name not in runs:
            try:
                runs[name] = (await self._ledger.run_named(name))[0]
            except LookupError:
                runs[name] = None
        run = runs[name]
        if run is None:
            message = f"no run {name!r}: make it with `mia run create {name}`"
            raise Refused(message)
        return run

    async def _new_question(
        self, record: Record, question: IncomingQuestion, run: RunView
    ) -> NewQuestion:
        source, row = identity(question, record)
        documents = None
        if question.documents:
            documents = await self._artifacts.put(msgspec.json.encode(question.documents))
        asked = QuestionAsked(
            text=question.question,
            source=source,
            row=row,
            pass_no=question.pass_no,
            images=question.images,
            documents=documents,
        )
        return NewQuestion(
            id=ids.question_id(run.id, source, row, question.pass_no),
            source=source,
            row=row,
            pass_no=question.pass_no,
            position=question.position,
            body=encode_payload(asked),
            urgent=question.urgent,
        )

    async def feedback(self, records: Sequence[Record]) -> None:
        """Seal the labels among `records`."""
        runs: dict[str, RunView | None] = {}
        for record in records:
            try:
                label = decode_label(record.value)
                run = await self._run(label.run, runs)
            except Refused as error:
                await self.refuse(record, str(error))
                continue
            source, row = (label.source, label.row) if label.id is None else ("id", label.id)
            question = ids.question_id(run.id, source or "", row or "", label.pass_no)
            await self._labels.seal(run.run_no, question, label.label, source=_origin(record))

    async def refuse(self, record: Record, reason: str) -> None:
        """Dead-letter a record once, however often it is read."""
        self.refused += 1
        origin = _place(record)
        letter = DeadLetterRow(
            id=dead_letter_id(record),
            run_no=0,
            error_class="refused",
            message=reason,
            origin=origin,
            record=record.value,
            headers=record.headers,
        )
        self._publisher.publish(await self._ledger.dead_letter(letter))


def dead_letter_id(record: Record) -> UUID:
    """One dead letter per record: by where and when it was written, and its bytes."""
    return uuid5(ids.NAMESPACE, f"{_origin(record)}/{sha256(record.value).hexdigest()}")


def _origin(record: Record) -> str:
    """Where and when a record was written, and nothing of what it says: a label's id is made of
    it, and a correction is another label than what it corrects.
    """
    return f"{_place(record)}/{record.timestamp}"


def _place(record: Record) -> str:
    return f"{record.topic}/{record.partition}/{record.offset}"


def identity(question: IncomingQuestion, record: Record) -> tuple[str, str]:
    """(source, row) of a question: what its sender said, else the record itself."""
    if question.id is not None:
        return "id", question.id
    if question.source is not None and question.row is not None:
        return question.source, question.row
    return "kafka", str(dead_letter_id(record))


def _next_offsets(records: Sequence[Record]) -> dict[tuple[str, int], int]:
    offsets: dict[tuple[str, int], int] = {}
    for record in records:
        offsets[record.topic, record.partition] = record.offset + 1
    return offsets


__all__ = ["Admission", "dead_letter_id", "identity"]
