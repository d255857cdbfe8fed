"""What the rest of the system may ask of storage. Adapters: `storage.postgres`; twins for the
simulator: `storage.inmemory`. Both pass the contract suite in `tests/contract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

import msgspec

from mia_events.commits import StepCommit
from mia_events.effects import Candidates, Consolidated, Groups, Memories, Recall, Rollouts
from mia_events.lifecycle import Kind
from mia_events.steps import QuestionView, RunView


class Want(msgspec.Struct, frozen=True):
    """A command that a worker would start now: the stream at a version, the claim it would hold,
    and how many of the stream's events the worker already has.
    """

    stream: UUID
    version: int
    claim: int
    known: int = 0


class Claimed(msgspec.Struct, frozen=True, kw_only=True):
    """A claim that was granted. `history` holds the payload bodies after the known ones.
    `attempt` counts claims of this command (from 1), `failures` those that ended in a stated
    retry; the rest died with their worker. `begun`: effects may be recorded, of an earlier claim or
    of one that a crash of the database lost. `question` may come along when nothing was known.
    """

    stream: UUID
    version: int
    claim: int
    kind: Kind
    run_no: int
    status: str
    topic: str
    event_id: UUID
    parent: UUID | None
    attempt: int
    failures: int
    isolated_deaths: int
    begun: bool = False
    history: tuple[bytes, ...]
    question: QuestionView | None = None


class EffectRow(msgspec.Struct, frozen=True, kw_only=True):
    """One recorded effect: the reply's bytes under (event, ordinal), with the request's SHA-256.
    `policy` is the model or planner version that answered.
    """

    run_no: int
    event_id: UUID
    ordinal: int
    kind: str
    request_sha: bytes
    result: bytes
    sealed: bool = False
    policy: str | None = None


class PendingCommit(msgspec.Struct, frozen=True, kw_only=True):
    """One unit of a group commit: effects to record, and the step they lead to (None: effects
    only).
    """

    effects: tuple[EffectRow, ...] = ()
    step: StepCommit | None = None


class Emitted(msgspec.Struct, frozen=True, kw_only=True):
    """An event that was appended and has a topic: to be published."""

    run_no: int
    stream: UUID
    seq: int
    id: UUID
    type: str
    topic: str
    body: bytes
    at: datetime
    cause: UUID | None
    correlation: UUID | None
    kind: Kind
    outbound: bool = False
    claimed: bool = False  #: its commit also claimed it for the committer


Outcome = Literal["committed", "lost", "conflict"]
PolicyState = Literal["candidate", "promoted", "held_back", "rolled_back"]


class CommitResult(msgspec.Struct, frozen=True):
    """One outcome per unit (`lost`: the claim or version no longer matched; `conflict`: another
    wrote one of its effects first), and what is to be published.
    """

    outcomes: tuple[Outcome, ...]
    emitted: tuple[Emitted, ...]


class NewQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """A question ready to be accepted; `body` is its `question.asked` payload."""

    id: UUID
    source: str
    row: str
    pass_no: int
    position: int | None
    body: bytes
    urgent: bool = False  #: somebody is waiting: it goes before what is not


class Pending(msgspec.Struct, frozen=True):
    """A stream's command that nobody holds."""

    stream: UUID
    version: int
    topic: str


AcceptOutcome = Literal["accepted", "duplicate", "closed", "position_taken"]


class Accepted(msgspec.Struct, frozen=True):
    """One outcome per question, and what is to be published."""

    outcomes: tuple[AcceptOutcome, ...]
    emitted: tuple[Emitted, ...]


class Sent(msgspec.Struct, frozen=True):
    """Where the broker put the command of a stream at a version."""

    stream: UUID
    version: int
    partition: int
    offset: int


class TopicState(msgspec.Struct, frozen=True):
    """A partition as the broker sees it: the group's committed offset (-1: none) and the end
    offset.
    """

    topic: str
    partition: int
    committed: int
    end: int


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """A question whose deadline has passed, or an open rollout of an answered one."""

    run_no: int
    stream: UUID
    version: int
    kind: Kind


class Ledger(Protocol):
    """The commit point. Every method is one round trip and one transaction."""

    async def claim(self, wants: Sequence[Want], *, lease_s: float) -> list[Claimed]:
        """Grant what is due, unclaimed (or expired) and at the version; skip the rest."""
        ...

    async def commit(self, units: Sequence[PendingCommit], *, lease_s: float) -> CommitResult:
        """Apply many units at once. No two may touch the same stream."""
        ...

    async def renew(self, claims: Sequence[tuple[UUID, int]], *, lease_s: float) -> set[int]:
        """Extend leases; the claims that are still held."""
        ...

    async def release(
        self,
        stream: UUID,
        claim: int,
        *,
        delay_s: float,
        failed: bool,
        isolated_death: bool = False,
    ) -> bool:
        """Give a claim back, to be started again after a delay; False when it was no longer held.
        `failed` False takes the attempt back (a drain); True counts a stated failure.
        """
        ...

    async def accept(self, run_no: int, questions: Sequence[NewQuestion]) -> Accepted:
        """Record questions of a run and open what may start."""
        ...

    async def advance(self, run_no: int) -> tuple[Emitted, ...]:
        """Close, open and seal what is due in a run (linger, release, finish); idempotent."""
        ...

    async def effects(self, run_no: int, event_id: UUID) -> list[EffectRow]:
        """What was recorded for an event, by ordinal."""
        ...

    async def mark_sent(self, sent: Sequence[Sent]) -> None:
        """Remember where commands lie in the broker."""
        ...

    async def acknowledge(self, outbound: Sequence[UUID]) -> None:
        """Outbound facts that the broker has acknowledged."""
        ...

    async def unsent(
        self, topics: Sequence[TopicState], *, grace_s: float, limit: int
    ) -> list[Emitted]:
        """Commands and facts that the broker has not, or no longer: taken over by the caller for
        `grace_s` seconds. `topics` must not be older than that: what was sent since is not lost.
        """
        ...

    async def topics_created(self, names: Sequence[str]) -> None:
        """Topics that were just made: whatever was sent to topics of these names before is gone."""
        ...

    async def overdue(self, *, limit: int) -> list[Due]:
        """Streams of running runs to be pre-empted: questions without an answer past their
        deadline, and open rollouts of answered questions past it.
        """
        ...

    async def urgent(self, topics: Sequence[str], *, limit: int) -> list[Pending]:
        """Commands of urgent questions of running runs that could be claimed now, oldest first."""
        ...

    async def due_runs(self) -> list[int]:
        """Runs with a batch whose linger or deadline has passed, that are closing, or in which
        questions wait while others may wait for nothing but a label.
        """
        ...

    async def load(self, run_no: int, stream: UUID) -> tuple[Claimed, ...]:
        """An unfinished stream as it stands, without claiming it (claim 0); empty when ended."""
        ...

    async def run(self, run_no: int) -> RunView:
        """A run by number. Raises `LookupError`."""
        ...

    async def run_named(self, name: str) -> tuple[RunView, str]:
        """A run by name, with its state. Raises `LookupError`."""
        ...

    async def question(self, question: UUID) -> QuestionView:
        """A question by id. Raises `LookupError`."""
        ...

    async def rollouts(self, question: UUID) -> Rollouts:
        """A question's rollouts with their histories."""
        ...

    async def consolidated(self, run: UUID, batch: int) -> Consolidated:
        """What a batch's ended questions left for memory, by position."""
        ...

    async def candidates(self, run: UUID, number: int) -> Candidates:
        """Ended groups of batches up to `number` that no batch has used, and the next parent."""
        ...

    async def groups(self, run: UUID, questions: Sequence[UUID]) -> Groups:
        """Ended groups with the planner's turns, in the order in which they were asked for."""
        ...

    async def dead_letter(self, letter: DeadLetterRow) -> tuple[Emitted, ...]:
        """Record what could not be handled; its bytes are sealed."""
        ...


class DeadLetterRow(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: `id` makes repeats one, `record` are the original bytes and headers
    (sealed).
    """

    id: UUID
    run_no: int
    error_class: str
    message: str
    origin: str
    record: bytes
    headers: tuple[tuple[str, bytes], ...] = ()
    attempts: int = 0
    stream: UUID | None = None
    event_id: UUID | None = None


class MemoryStore(Protocol):
    """Memories of a scope, versioned by generation."""

    async def recall(self, request: Recall) -> Memories:
        """The best memories as of a generation."""
        ...


class LabelStore(Protocol):
    """Sealed labels; only the judge's and the auditor's roles can read."""

    async def seal(
        self, run_no: int, question: UUID, value: str, *, source: str
    ) -> tuple[Emitted, ...]:
        """Keep a label and ledger its salted commitment; the same source again is one label,
        another one corrects it.

        Rollouts that wait for it are due at once.
        """
        ...

    async def label(self, question: UUID) -> str | None:
        """The newest label of a question."""
        ...

    async def waited(self, run_no: int, event_id: UUID) -> float:
        """Seconds since an event was committed, by the database's clock."""
        ...


class PolicyRow(msgspec.Struct, frozen=True, kw_only=True):
    """A planner version as it is registered; see `mia_events.steps.NewVersion`."""

    run_no: int
    number: int
    name: str
    parent: str
    batch: int
    state: PolicyState
    adapter_sha256: str
    optimizer_sha256: str
    data_sha256: str
    record: bytes
    event_id: UUID
    at: datetime


class Policies(Protocol):
    """The registry of planner versions; versions are added by the commits that make them."""

    async def list(self, run_no: int) -> tuple[PolicyRow, ...]:
        """A run's versions, oldest first."""
        ...

    async def get(self, run_no: int, name: str) -> PolicyRow | None:
        """A version by its name, such as ``planner@v3``; None when it is not registered."""
        ...

    async def wanted(self) -> tuple[PolicyRow, ...]:
        """Versions of unfinished runs that requests may name: those that serve, those that an
        unfinished batch or question is pinned to, those that a guard compares, and the best.
        """
        ...

    async def on_base(self) -> tuple[int, ...]:
        """Unfinished runs of which requests may name the base model, for any of these reasons."""
        ...

    def levelling(self) -> AbstractAsyncContextManager[bool]:
        """Entering says whether nobody else is bringing servers level; then nobody begins to."""
        ...


class Artifacts(Protocol):
    """Bytes by content hash."""

    async def put(self, data: bytes) -> str:
        """Store and return the SHA-256 hex digest; durable when it returns."""
        ...

    async def get(self, sha256: str) -> bytes:
        """Read back, verified. Raises `LookupError` or `ValueError` when damaged."""
        ...


Json = dict[str, Any]

__all__ = [
    "AcceptOutcome",
    "Accepted",
    "Artifacts",
    "Claimed",
    "CommitResult",
    "DeadLetterRow",
    "Due",
    "EffectRow",
    "Emitted",
    "LabelStore",
    "Ledger",
    "MemoryStore",
    "NewQuestion",
    "Outcome",
    "Pending",
    "PendingCommit",
    "Policies",
    "PolicyRow",
    "PolicyState",
    "Sent",
    "TopicState",
    "Want",
]
