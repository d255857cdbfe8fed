"""What an audit looks for, and where it keeps what it finds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final
from uuid import UUID

import msgspec

_KEEP: Final = 20


class Check(StrEnum):
    """One thing that must hold. The value is its name in reports."""

    SEQUENCE = "sequence"  #: events of a stream count up from 1
    IDENTITY = "identity"  #: every event has the id that its place derives
    CAUSE = "cause"  #: every event's cause exists and is the one that its place derives
    DONE_ONCE = "done_once"  #: no command led to two steps of its stream
    CLAIM = "claim"  #: every step was claimed, and no claim was used twice
    TRANSITION = "transition"  #: every event was allowed where it happened
    ROUTE = "route"  #: every event travels on the topic that its table says
    CHAIN = "chain"  #: every hash covers its event and the hash before
    BODY = "body"  #: every payload can be read and is what its row says
    HEAD = "head"  #: unfinished streams stand where their events end
    KINSHIP = "kinship"  #: every stream belongs to something, and everything has its stream
    ENDED_ONCE = "ended_once"  #: every accepted question ends exactly once
    PROJECTION = "projection"  #: rows say what their events say
    JOIN = "join"  #: counters and joins agree with the rollouts
    ANSWER = "answer"  #: the official answer is what its candidate proposed
    TEST_THEN_TRAIN = "test_then_train"  #: nothing is judged before the answer is committed
    ORDER = "order"  #: what a question ordered belongs to the step that it took
    BATCH = "batch"  #: batches hold what they say
    GENERATION = "generation"  #: batches are pinned as their lag says and sealed in order
    RECALL = "recall"  #: no retrieval saw a memory newer than its batch's generation
    MEMORY = "memory"  #: memories and credits come from the events that they name
    VERSION = "version"  #: planner versions are what their events made, one chain, of whole groups
    EFFECT = "effect"  #: effects belong to commands, without gaps
    SEALED = "sealed"  #: what follows a label is sealed
    RECORD = "record"  #: every record of our topics is an event of the ledger
    FACT = "fact"  #: every acknowledged outbound fact is in its topic


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One finding: what is wrong, and where."""

    check: Check
    what: str
    run: str = ""
    stream: UUID | None = None
    seq: int | None = None


class Findings:
    """Faults by check: all are counted, the first few of each are kept."""

    def __init__(self, *, keep: int = _KEEP) -> None:
        self.counts: Counter[Check] = Counter()
        self.kept: list[Fault] = []
        self._keep = keep
        self._run = ""

    @contextmanager
    def of(self, run: str) -> Iterator[None]:
        """Inside, faults are those of a run."""
        self._run = run
        yield
        self._run = ""

    def add(
        self, check: Check, what: str, stream: UUID | None = None, seq: int | None = None
    ) -> None:
        """Report a fault."""
        self.counts[check] += 1
        if self.counts[check] <= self._keep:
            self.kept.append(Fault(check=check, what=what, run=self._run, stream=stream, seq=seq))

    def require(self, holds: object, check: Check, what: str, stream: UUID | None = None) -> None:
        """Report a fault unless `holds`."""
        if not holds:
            self.add(check, what, stream)


__all__ = ["Check", "Fault", "Findings"]
