"""The rows that the twins share, and how an event is appended to a stream's chain."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from uuid import UUID

from mia_events.chain import GENESIS, chain_hash
from mia_events.lifecycle import Kind
from mia_events.steps import Manifest
from storage.ports import DeadLetterRow, EffectRow, Emitted, NewQuestion, PolicyRow

#: Run states in which commands may be claimed and timers fire.
MOVING = ("running", "closing")


@dataclass(kw_only=True)
class Head:
    """The end of a stream: its version (number of events) and the hash of the last one."""

    version: int = 0
    hash: bytes = GENESIS


@dataclass(kw_only=True)
class NewEvent:
    """An event to append."""

    run_no: int
    stream: UUID
    id: UUID
    kind: Kind
    type: str
    body: bytes
    topic: str | None = None
    cause: UUID | None = None
    correlation: UUID | None = None
    claim: int | None = None
    attempt: int | None = None


@dataclass(kw_only=True)
class EventRow(NewEvent):
    """An appended event; `place` counts all events of the database."""

    seq: int
    place: int
    at: datetime
    hash: bytes


@dataclass(kw_only=True)
class ActiveRow:
    """An unfinished stream with its pending command, if any (`topic` None: it waits)."""

    stream: UUID
    run_no: int
    kind: Kind
    status: str
    head: Head
    pending: UUID
    topic: str | None
    parent: UUID | None
    updated_at: datetime
    claim: int | None = None
    attempt: int = 0
    failures: int = 0
    isolated_deaths: int = 0
    lease_until: datetime | None = None
    due_at: datetime | None = None
    deadline: datetime | None = None
    sent: tuple[int, int] | None = None

    def leased(self, now: datetime) -> bool:
        """True while somebody's claim lives."""
        return self.claim is not None and self.lease_until is not None and self.lease_until >= now

    def due(self, now: datetime) -> bool:
        """True when no back-off holds the command."""
        return self.due_at is None or self.due_at <= now

    def turn(
        self,
        status: str,
        topic: str | None,
        pending: UUID,
        now: datetime,
        lease: Lease | None = None,
    ) -> None:
        """Set the next state and a fresh command."""
        self.status, self.topic, self.pending, self.updated_at = status, topic, pending, now
        self.claim = lease.claim if lease else None
        self.lease_until = lease.until if lease else None
        self.attempt = 1 if lease else 0
        self.failures = self.isolated_deaths = 0
        self.due_at = self.sent = None


@dataclass(frozen=True)
class Lease:
    """A claim with the time it lasts."""

    claim: int
    until: datetime


@dataclass(kw_only=True)
class QuestionRow:
    """What projects from a question's events."""

    id: UUID
    run_no: int
    pos: int
    batch: int | None
    new: NewQuestion
    head: Head
    status: str = "waiting"
    g: int = 0
    planned: int = 0
    ended: int = 0
    candidate: int | None = None
    official: int | None = None
    answer: str | None = None
    reason: str | None = None
    grade: str | None = None
    policy: str = "base"
    closed: bool = False


@dataclass(kw_only=True)
class RolloutRow:
    """How far a rollout is, as its question counts it."""

    id: UUID
    question: UUID
    number: int
    phase: int = 0
    outcome: str | None = None


@dataclass(kw_only=True)
class BatchRow:
    """A batch of a run."""

    id: UUID
    run_no: int
    number: int
    first_at: datetime
    status: str = "filling"
    size: int = 0
    ended: int = 0
    generation: int | None = None
    policy: str | None = None
    head: Head = field(default_factory=Head)
    opened_at: datetime | None = None


@dataclass(kw_only=True)
class RunRow:
    """A run with its counters."""

    run_no: int
    id: UUID
    name: str
    scope: str
    manifest: Manifest
    state: str = "running"
    policy: str = "base"
    head: Head = field(default_factory=Head)
    next_pos: int = 0
    base_pos: int = 0
    base_batch: int = 0
    sealed_gen: int = 0
    accepted: int = 0
    opened: int = 0
    ended: int = 0
    paused_at: datetime | None = None

    @property
    def moving(self) -> bool:
        """True unless paused or over."""
        return self.state in MOVING


@dataclass(kw_only=True)
class OutboxRow:
    """An outbound fact that the broker has not acknowledged."""

    fact: Emitted
    try_after: datetime


@dataclass(kw_only=True)
class MemoryRow:
    """One version of a memory: in use while `until_gen` is None. `brought_uses` and `brought_wins`
    are the record that it was imported with.
    """

    id: UUID
    version: int
    scope: str
    dedupe_key: str
    outcome: str
    text: str
    question: str
    vector: tuple[float, ...]
    words: frozenset[str]
    trust: str
    brought_uses: int
    brought_wins: int
    causes: tuple[UUID, ...]
    from_gen: int
    until_gen: int | None = None


@dataclass(frozen=True)
class Credit:
    """A memory served a question."""

    gen: int
    won: bool


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Database:
    """All rows. Every public method of a twin runs without awaiting, hence as one transaction."""

    clock: Callable[[], datetime] = _utc_now
    runs: dict[int, RunRow] = field(default_factory=dict)
    active: dict[UUID, ActiveRow] = field(default_factory=dict)
    questions: dict[UUID, QuestionRow] = field(default_factory=dict)
    rollouts: dict[UUID, RolloutRow] = field(default_factory=dict)
    batches: dict[tuple[int, int], BatchRow] = field(default_factory=dict)
    events: dict[UUID, list[EventRow]] = field(default_factory=dict)
    effects: dict[tuple[UUID, int], EffectRow] = field(default_factory=dict)
    outbox: dict[UUID, OutboxRow] = field(default_factory=dict)
    letters: dict[UUID, DeadLetterRow] = field(default_factory=dict)
    labels: dict[UUID, dict[str, str]] = field(default_factory=dict)
    memories: list[MemoryRow] = field(default_factory=list)
    newest: dict[UUID, MemoryRow] = field(default_factory=dict)
    credits: dict[tuple[UUID, UUID], Credit] = field(default_factory=dict)
    generations: dict[str, int] = field(default_factory=dict)
    policies: dict[tuple[int, str], PolicyRow] = field(default_factory=dict)
    serving: dict[int, dict[int, str]] = field(default_factory=dict)  #: by run and generation
    used_groups: dict[UUID, int] = field(default_factory=dict)
    appended: int = 0

    def append(self, head: Head, new: NewEvent) -> Emitted:
        """Append an event and move the stream's head. Raises `ValueError` for an id used before."""
        past = self.events.setdefault(new.stream, [])
        if any(event.id == new.id for event in past):
            message = f"event {new.id} ({new.type}) is already in stream {new.stream}"
            raise ValueError(message)
        now = self.clock()
        head.version += 1
        head.hash = chain_hash(
            head.hash,
            stream=new.stream,
            seq=head.version,
            event_id=new.id,
            cause=new.cause,
            at=now,
            body_sha256=sha256(new.body).digest(),
            type_=new.type,
        )
        self.appended += 1
        past.append(
            EventRow(**vars(new), seq=head.version, place=self.appended, at=now, hash=head.hash)
        )
        return emitted(past[-1], new.topic or "")

    def bodies(self, stream: UUID, known: int = 0) -> tuple[bytes, ...]:
        """A stream's payloads after the first `known`."""
        return tuple(event.body for event in self.events[stream][known:])

    def run_of(self, row: ActiveRow) -> RunRow:
        """The run that an unfinished stream belongs to."""
        return self.runs[row.run_no]

    def of_run(self, run_no: int) -> Iterator[ActiveRow]:
        """The unfinished streams of a run."""
        return (row for row in self.active.values() if row.run_no == run_no)

    def after(self, seconds: float) -> datetime:
        """The time `seconds` from now."""
        return self.clock() + timedelta(seconds=seconds)


def emitted(event: EventRow, topic: str, *, outbound: bool = False) -> Emitted:
    """An event as it is to be published."""
    return Emitted(
        run_no=event.run_no,
        stream=event.stream,
        seq=event.seq,
        id=event.id,
        type=event.type,
        topic=topic,
        body=event.body,
        at=event.at,
        cause=event.cause,
        correlation=event.correlation,
        kind=event.kind,
        outbound=outbound,
    )


__all__ = [
    "MOVING",
    "ActiveRow",
    "BatchRow",
    "Credit",
    "Database",
    "EventRow",
    "Head",
    "Lease",
    "MemoryRow",
    "NewEvent",
    "OutboxRow",
    "QuestionRow",
    "RolloutRow",
    "RunRow",
    "emitted",
]
