"""What a task is made of, cached: runs, questions and the histories of streams at hand."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, TypeVar

from mia_events.lifecycle import Kind
from mia_events.steps import Task
from schemas.envelope import decode_payload

if TYPE_CHECKING:
    from uuid import UUID

    from mia_events.steps import QuestionView, RunView
    from schemas.events import Event, Payload
    from storage.ports import Claimed, Ledger

K = TypeVar("K")
V = TypeVar("V")


class Lru(Generic[K, V]):
    """The `size` most recently used values."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, now the most recently used one."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep a value; the least recently used one may go."""
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._size:
            self._values.popitem(last=False)

    def drop(self, key: K) -> None:
        """Forget a value, if it is there."""
        self._values.pop(key, None)


class Lost(Exception):
    """The claim is no longer ours."""


class Context:
    """Builds tasks from claims. What it caches never changes: manifests, questions, past events."""

    def __init__(self, ledger: Ledger, *, histories: int = 20_000) -> None:
        self._ledger = ledger
        self._runs: dict[int, RunView] = {}
        self._questions: Lru[UUID, QuestionView] = Lru(histories)
        self._histories: Lru[UUID, tuple[Payload, ...]] = Lru(histories)

    async def run(self, run_no: int) -> RunView:
        """A run's view. Raises `LookupError`."""
        view = self._runs.get(run_no)
        if view is None:
            view = self._runs[run_no] = await self._ledger.run(run_no)
        return view

    async def run_id(self, run_no: int) -> UUID:
        """A run's id."""
        return (await self.run(run_no)).id

    async def question(self, question: UUID) -> QuestionView:
        """A question's view. Raises `LookupError`."""
        view = self._questions.get(question)
        if view is None:
            view = await self._ledger.question(question)
            self._questions.put(question, view)
        return view

    def known(self, stream: UUID) -> int:
        """How many of a stream's events are at hand."""
        return len(self._histories.get(stream) or ())

    async def task(self, claimed: Claimed) -> Task:
        """The task of a claim.

        Raises `Unreadable` when a stored event cannot be read, `Lost` when the stream has gone on.
        """
        history = await self._history(claimed)
        self._histories.put(claimed.stream, history)
        if claimed.question is not None:
            self._questions.put(claimed.question.id, claimed.question)
        question = claimed.parent if claimed.kind in (Kind.ROLLOUT, Kind.QUESTION) else None
        return Task(
            run=await self.run(claimed.run_no),
            question=await self.question(question) if question is not None else None,
            stream=claimed.stream,
            kind=claimed.kind,
            status=claimed.status,
            version=claimed.version,
            event_id=claimed.event_id,
            history=history,
        )

    async def _history(self, claimed: Claimed) -> tuple[Payload, ...]:
        """All events of the stream: those at hand, then those that came with the claim. They are
        read again if that is not all: what was at hand has made way, or another process claimed.
        """
        history = self._histories.get(claimed.stream) or ()
        history = history[: claimed.version - len(claimed.history)] + _decoded(claimed)
        if len(history) == claimed.version:
            return history
        for stands in await self._ledger.load(claimed.run_no, claimed.stream):
            if stands.version == claimed.version:
                return _decoded(stands)
        raise Lost

    def appended(self, task: Task, event: Event) -> None:
        """A step of `task` was committed: its event is the newest of the stream."""
        self._histories.put(task.stream, (*task.history, event))  # type: ignore[arg-type]

    def forget(self, stream: UUID) -> None:
        """The stream is over, or what is known of it is in doubt."""
        self._histories.drop(stream)


def _decoded(claimed: Claimed) -> tuple[Payload, ...]:
    return tuple(decode_payload(body) for body in claimed.history)


__all__ = ["Context", "Lost", "Lru"]
