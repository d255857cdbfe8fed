"""What the routes do: publish as any client does, and read what the ledger has."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID, uuid4

import msgspec

from mia_events import ids, topics
from mia_events.steps import RunView
from ops.api.guard import Problem
from ops.following import outcome_of
from producers.outlet import Outlet
from producers.publish import send
from schemas.external import IncomingLabel, IncomingQuestion, Refused, decode_label, decode_question
from storage.postgres.history import PostgresHistory, QuestionState
from storage.postgres.ledger import PostgresLedger
from storage.postgres.watch import MemoryRow, PostgresWatch

__all__ = ["Service"]

_PATIENCE_S: Final = 5.0
_LOOK_EVERY_S: Final = 0.05
_SENDER: Final = "id"
_OWN_NAMES: Final = ("id", "source", "row", "pass", "position")


class _LabelFor(msgspec.Struct):
    """The part of a label's body that names its question by the UUID that we gave it."""

    question: UUID | None = None


class Service:
    """Reads through `ledger`, writes through `outlet`."""

    def __init__(self, ledger: PostgresLedger, outlet: Outlet) -> None:
        self._ledger, self._outlet = ledger, outlet
        self._sending = asyncio.Lock()
        self.history = PostgresHistory(ledger.pool)
        self.watch = PostgresWatch(ledger.pool)

    async def ask(self, body: bytes, key: str | None) -> tuple[UUID, QuestionState | None, bool]:
        """Publish a question; its id, its state once it is accepted, whether it was there before.

        Raises:
            Problem: the body is no question, its run takes none, or the key names another one.
        """
        incoming = _question(body, key or f"http-{uuid4().hex}")
        run = await self._run(incoming.run)
        question = ids.question_id(run.id, _SENDER, incoming.id or "")
        before = await self.history.question(question)
        if before is not None:
            _require_same(before, incoming)
            return question, before, True
        async with self._sending:
            await send(self._outlet, [incoming])
        return question, await self._accepted(question), False

    async def label(self, body: bytes) -> None:
        """Publish a label; it is sealed on arrival. Raises `Problem`."""
        record = await self._label(body)
        run = await self._run(record.run)
        question = ids.question_id(
            run.id, record.source or _SENDER, record.row or record.id or "", record.pass_no
        )
        if await self.history.question(question) is None:
            raise Problem(404, "not_found", "the run has no such question")
        async with self._sending:
            # By question: a correction stays behind what it corrects.
            await self._outlet.put(topics.FEEDBACK, question.bytes, msgspec.json.encode(record))
            await self._outlet.flush()

    async def question(self, question: UUID) -> dict[str, Any]:
        """Return what became of a question. Raises `Problem` (404)."""
        return await outcome_of(self.history, await self.state(question))

    async def state(self, question: UUID) -> QuestionState:
        """Return a question's state. Raises `Problem` (404)."""
        found = await self.history.question(question)
        if found is None:
            raise Problem(404, "not_found", f"no question {question} was accepted")
        return found

    async def memories(self, query: Mapping[str, str]) -> list[MemoryRow]:
        """Return a run's newest memories. Raises `Problem`."""
        try:
            limit = int(query.get("limit", "50"))
        except ValueError:
            limit = 0
        if not 1 <= limit <= 500:  # noqa: PLR2004 - said in the message
            raise Problem(400, "bad_request", "limit is a number from 1 to 500")
        run = await self._run(query.get("run", "default"))
        return await self.watch.memories(run.scope, limit)

    async def _run(self, name: str) -> RunView:
        try:
            return (await self._ledger.run_named(name))[0]
        except LookupError:
            raise Problem(404, "no_such_run", f"there is no run {name!r}") from None

    async def _accepted(self, question: UUID) -> QuestionState | None:
        """Wait a little for admission, so that what was posted can be looked at."""
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            state = await self.history.question(question)
            if state is not None or time.monotonic() > deadline:
                return state
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _label(self, body: bytes) -> IncomingLabel:
        """Read a label's record; no refusal quotes it."""
        try:
            record: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
            named = msgspec.json.decode(body, type=_LabelFor).question
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise Problem(400, "bad_request", "not a label's JSON") from None
        if named is not None:
            state = await self.state(named)
            record |= {
                "run": state.run,
                "source": state.source,
                "row": state.row,
                "pass": state.pass_no,
            }
        try:
            return decode_label(msgspec.json.encode(record))
        except Refused as refused:
            raise Problem(400, "bad_request", str(refused)) from None


def _question(body: bytes, key: str) -> IncomingQuestion:
    """Read a question; it is urgent unless it says otherwise, and named by the key alone."""
    try:
        incoming = decode_question(body)
        given = msgspec.json.decode(body, type=dict[str, Any])
        own = [name for name in _OWN_NAMES if name in given]
        if own:
            raise Problem(
                400, "bad_request", f"{own[0]} is not taken here: send the header Idempotency-Key"
            )
        incoming = msgspec.structs.replace(incoming, id=key, urgent=bool(given.get("urgent", True)))
        return decode_question(msgspec.json.encode(incoming))
    except Refused as refused:
        raise Problem(400, "refused", str(refused)) from None


def _require_same(before: QuestionState, incoming: IncomingQuestion) -> None:
    if before.text is not None and before.text != incoming.question:
        raise Problem(409, "key_reused", "this Idempotency-Key belongs to another question")
