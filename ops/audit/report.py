"""The verdict of an audit, ready to be printed or written down."""

from __future__ import annotations

from typing import Final
from uuid import UUID

import msgspec

from ops.audit.findings import Check, Fault
from ops.audit.labels import LabelCount
from ops.audit.topics import TopicCount

CLEAN: Final = 0
FAULTY: Final = 1
UNABLE: Final = 2


class CannotAudit(Exception):
    """There is nothing to judge: no such run, or the database does not let us read."""


class OpenQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted question that has not ended; `status` is its stream's."""

    position: int
    id: UUID
    status: str


class RunReport(msgspec.Struct, frozen=True, kw_only=True):
    """A run in numbers, with its digest.

    `erased` counts payloads that are gone (their chain stands), `facts` outbound facts that had to
    be in their topics; `open` lists the first open questions.
    """

    name: str
    mode: str
    state: str
    digest: str
    accepted: int
    answered: int
    failed: int
    ended: int
    rollouts: int
    batches: int
    sealed_generation: int
    streams: int
    events: int
    effects: int
    memories: int
    dead_letters: int
    erased: int
    unacknowledged: int
    facts: int | None = None
    open: tuple[OpenQuestion, ...] = ()
    labels: LabelCount | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What an audit found: `counts` has the number of faults by check, `faults` the first of each.

    `topics_unread` says why topics were not looked at; it is empty when they were. `topics_missing`
    are not in the broker (a sweeper makes them again). `wanted_topics`: they were asked for.
    """

    runs: tuple[RunReport, ...]
    counts: dict[Check, int]
    faults: tuple[Fault, ...]
    topics: tuple[TopicCount, ...] = ()
    topics_missing: tuple[str, ...] = ()
    topics_unread: str = ""
    wanted_topics: bool = True
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """True when no fault was found in what was looked at."""
        return not self.counts

    @property
    def complete(self) -> bool:
        """True when everything that was asked for was looked at."""
        return not (self.wanted_topics and self.topics_unread)

    @property
    def exit_code(self) -> int:
        """0: clean; 1: faults; 2: no fault in what could be read, but something could not."""
        if not self.clean:
            return FAULTY
        return CLEAN if self.complete else UNABLE

    @property
    def repeats(self) -> int:
        """How many records were sent again."""
        return sum(topic.repeats for topic in self.topics)

    def run(self, name: str) -> RunReport:
        """The report of one run. Raises `LookupError`."""
        for run in self.runs:
            if run.name == name:
                return run
        raise LookupError(f"run {name!r} was not audited")


__all__ = ["CLEAN", "FAULTY", "UNABLE", "CannotAudit", "OpenQuestion", "Report", "RunReport"]
