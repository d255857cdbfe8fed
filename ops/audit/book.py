"""A run's history, indexed for the checks: streams, events by id, payloads decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple, TypeVar
from uuid import UUID

from mia_events.lifecycle import TABLES, Kind, NoTransition, Rule, advance
from schemas.envelope import Unreadable, decode_payload
from schemas.events import Event, Payload
from storage.postgres.audit import BatchRow, EventRow, History, MemoryRow, QuestionRow, RolloutRow

_E = TypeVar("_E", bound=Event)


@dataclass(frozen=True, slots=True)
class Entry:
    """An event with its payload; None when that was erased or cannot be read."""

    row: EventRow
    payload: Payload | None
    problem: str = ""

    @property
    def where(self) -> str:
        """The event in words."""
        return f"{self.row.type} (event {self.row.seq})"


class Standing(NamedTuple):
    """Where the life-cycle table leads, and the rules of the events until one was not allowed."""

    status: str | None
    topic: str | None
    rules: tuple[Rule, ...]
    problem: str


@dataclass(frozen=True)
class Stream:
    """The events of one stream in order."""

    id: UUID
    entries: tuple[Entry, ...]

    @property
    def kind(self) -> int:
        """The kind of its first event."""
        return self.entries[0].row.kind

    @property
    def last(self) -> EventRow:
        """Its newest event."""
        return self.entries[-1].row

    @cached_property
    def standing(self) -> Standing:
        """Its events taken through the table again; after a forbidden one nothing is known."""
        rules: list[Rule] = []
        status = None
        for entry in self.entries:
            try:
                kind = Kind(self.kind)
                rules.append(advance(kind, TABLES[kind], status, entry.row.type))
            except (NoTransition, KeyError, ValueError) as error:
                return Standing(None, None, tuple(rules), str(error))
            status = rules[-1].status
        return Standing(status, rules[-1].topic, tuple(rules), "")

    @property
    def status(self) -> str | None:
        """Its status; None when it has no table or a forbidden event."""
        return self.standing.status

    @property
    def over(self) -> bool:
        """True when nothing can follow."""
        return self.status == "ended"

    @property
    def imports(self) -> bool:
        """True when it brought memories from a file."""
        return self.entries[0].row.type == "memory.imported"

    def of(self, *types: str) -> list[Entry]:
        """Its events of some types."""
        return [entry for entry in self.entries if entry.row.type in types]

    def payloads(self, kind: type[_E]) -> Iterator[_E]:
        """Its readable payloads of a type."""
        return (entry.payload for entry in self.entries if isinstance(entry.payload, kind))

    def at(self, seq: int) -> Entry | None:
        """Its event number `seq`."""
        return next((entry for entry in self.entries if entry.row.seq == seq), None)


class Book:
    """A history with what the checks look up."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.run = history.run
        self.streams = {
            stream: Stream(stream, tuple(map(_entry, rows)))
            for stream, rows in groupby(history.events, key=lambda row: row.stream)
        }
        self.questions: Mapping[UUID, QuestionRow] = {q.id: q for q in history.questions}
        self.rollouts: Mapping[UUID, RolloutRow] = {r.id: r for r in history.rollouts}
        self.batches: Mapping[int, BatchRow] = {b.number: b for b in history.batches}
        self.memories: Mapping[tuple[UUID, int], MemoryRow] = {
            (m.id, m.version): m for m in history.memories
        }

    @cached_property
    def by_id(self) -> Mapping[UUID, Entry]:
        """Every event by its id."""
        return {entry.row.id: entry for stream in self.streams.values() for entry in stream.entries}

    @cached_property
    def rollouts_of(self) -> Mapping[UUID, list[RolloutRow]]:
        """The rollouts of each question, by number."""
        found: dict[UUID, list[RolloutRow]] = {}
        for row in self.history.rollouts:
            found.setdefault(row.question, []).append(row)
        return found

    @property
    def live(self) -> bool:
        """True for a run without batches."""
        return self.run.mode != "batch"

    @property
    def ended(self) -> bool:
        """True when the run has finished or was cancelled."""
        return self.run.state == "ended"

    @property
    def cancelled(self) -> bool:
        """True when the run was abandoned."""
        stream = self.streams.get(self.run.id)
        return stream is not None and bool(stream.of("run.cancelled"))

    @property
    def erased(self) -> int:
        """How many payloads are gone."""
        return sum(row.body is None for row in self.history.events)

    def of_kind(self, kind: Kind) -> list[Stream]:
        """The streams of a kind."""
        return [stream for stream in self.streams.values() if stream.kind == kind]

    def question_of(self, stream: Stream) -> Stream | None:
        """The question that a rollout serves (a question serves itself)."""
        row = self.rollouts.get(stream.id)
        return self.streams.get(row.question if row is not None else stream.id)


def _entry(row: EventRow) -> Entry:
    if row.body is None:
        return Entry(row, None)
    try:
        return Entry(row, decode_payload(row.body))
    except Unreadable as error:
        return Entry(row, None, str(error))


__all__ = ["Book", "Entry", "Standing", "Stream"]
