"""Twin of the ledger, for the simulator: the same outcomes, without a disk."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from hashlib import sha256
from uuid import UUID

import msgspec

from mia_events import ids, topics
from mia_events.effects import (
    Candidates,
    Consolidated,
    ConsolidatedQuestion,
    Groups,
    Rollouts,
    RolloutView,
)
from mia_events.lifecycle import Kind, Phase
from mia_events.steps import QuestionView, RunView
from schemas.envelope import encode_payload
from schemas.events import DeadLetter, QuestionAsked, event_type
from storage.inmemory.admission import admit
from storage.inmemory.advance import advance_run, overdue_batch
from storage.inmemory.commit import OUTBOX_GRACE, commit_units
from storage.inmemory.policies import candidates, group_view
from storage.inmemory.state import ActiveRow, Database, Head, NewEvent, OutboxRow, RunRow, emitted
from storage.ports import (
    Accepted,
    Claimed,
    CommitResult,
    DeadLetterRow,
    Due,
    EffectRow,
    Emitted,
    NewQuestion,
    Pending,
    PendingCommit,
    Sent,
    TopicState,
    Want,
)


class InMemoryLedger:
    """The `Ledger` port over a `Database`. No method awaits, so each is one transaction."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def claim(self, wants: Sequence[Want], *, lease_s: float) -> list[Claimed]:
        """See the port."""
        granted = [(w, row) for w in wants if (row := self._startable(w)) is not None]
        for want, row in granted:
            row.claim, row.lease_until = want.claim, self._db.after(lease_s)
            row.attempt += 1
        return [self._claimed(row, want.claim, want.known) for want, row in granted]

    async def commit(self, units: Sequence[PendingCommit], *, lease_s: float) -> CommitResult:
        """See the port."""
        return commit_units(self._db, units, lease_s)

    async def renew(self, claims: Sequence[tuple[UUID, int]], *, lease_s: float) -> set[int]:
        """See the port."""
        held = [(self._db.active.get(stream), claim) for stream, claim in claims]
        mine = [(row, claim) for row, claim in held if row is not None and row.claim == claim]
        for row, _ in mine:
            row.lease_until = self._db.after(lease_s)
        return {claim for _, claim in mine}

    async def release(
        self,
        stream: UUID,
        claim: int,
        *,
        delay_s: float,
        failed: bool,
        isolated_death: bool = False,
    ) -> bool:
        """See the port."""
        row = self._db.active.get(stream)
        if row is None or row.claim != claim:
            return False
        row.claim = row.lease_until = row.sent = None
        row.due_at, row.updated_at = self._db.after(delay_s), self._db.clock()
        row.failures += failed
        row.isolated_deaths += isolated_death
        row.attempt -= not (failed or isolated_death)
        return True

    async def accept(self, run_no: int, questions: Sequence[NewQuestion]) -> Accepted:
        """See the port."""
        run = self._db.runs[run_no]
        outcomes = tuple(admit(self._db, run, question) for question in questions)
        return Accepted(outcomes, advance_run(self._db, run))

    async def advance(self, run_no: int) -> tuple[Emitted, ...]:
        """See the port."""
        return advance_run(self._db, self._db.runs[run_no])

    async def effects(self, run_no: int, event_id: UUID) -> list[EffectRow]:
        """See the port."""
        rows = [
            row
            for (event, _), row in self._db.effects.items()
            if event == event_id and row.run_no == run_no
        ]
        return sorted(rows, key=lambda row: row.ordinal)

    async def mark_sent(self, sent: Sequence[Sent]) -> None:
        """See the port."""
        for place in sent:
            row = self._db.active.get(place.stream)
            if row is not None and row.head.version == place.version:
                row.sent, row.updated_at = (place.partition, place.offset), self._db.clock()

    async def acknowledge(self, outbound: Sequence[UUID]) -> None:
        """See the port."""
        for fact in outbound:
            self._db.outbox.pop(fact, None)

    async def unsent(
        self, topics: Sequence[TopicState], *, grace_s: float, limit: int
    ) -> list[Emitted]:
        """See the port."""
        places = {(state.topic, state.partition): state for state in topics}
        names = {state.topic for state in topics}
        rows = [r for r in self._db.active.values() if r.topic in names and self._idle(r)]
        missing = sorted((row for row in rows if self._missing(row, places, grace_s)), key=_age)[
            :limit
        ]
        for row in missing:
            row.sent, row.updated_at = None, self._db.clock()
        commands = [emitted(self._db.events[r.stream][-1], r.topic or "") for r in missing]
        return commands + self._unsent_facts(grace_s, limit)

    async def topics_created(self, names: Sequence[str]) -> None:
        """See the port."""
        for row in self._db.active.values():
            if row.topic in names and row.sent is not None:
                row.sent, row.updated_at = None, self._db.clock()

    async def overdue(self, *, limit: int) -> list[Due]:
        """See the port."""
        late = [row for row in self._db.active.values() if self._overdue(row)]
        return [_due(row) for row in late][:limit]

    async def urgent(self, topics: Sequence[str], *, limit: int) -> list[Pending]:
        """See the port."""
        rows = [row for row in self._db.active.values() if row.topic in topics and self._idle(row)]
        found = [row for row in rows if self._is_urgent(row)]
        return [Pending(row.stream, row.head.version, row.topic or "") for row in found][:limit]

    def _is_urgent(self, row: ActiveRow) -> bool:
        question = self._db.questions.get(row.parent) if row.parent else None
        return question is not None and question.new.urgent

    async def due_runs(self) -> list[int]:
        """See the port."""
        return sorted(run.run_no for run in self._db.runs.values() if self._run_is_due(run))

    async def load(self, run_no: int, stream: UUID) -> tuple[Claimed, ...]:
        """See the port."""
        row = self._db.active.get(stream)
        return () if row is None or row.run_no != run_no else (self._claimed(row, 0, 0),)

    async def run(self, run_no: int) -> RunView:
        """See the port."""
        if run_no not in self._db.runs:
            message = f"no run number {run_no}"
            raise LookupError(message)
        return _run_view(self._db.runs[run_no])

    async def run_named(self, name: str) -> tuple[RunView, str]:
        """See the port."""
        for run in self._db.runs.values():
            if run.name == name:
                return _run_view(run), run.state
        message = f"no run {name!r}"
        raise LookupError(message)

    async def question(self, question: UUID) -> QuestionView:
        """See the port."""
        row = self._db.questions.get(question)
        if row is None:
            message = f"no question {question}"
            raise LookupError(message)
        asked = msgspec.json.decode(row.new.body, type=QuestionAsked)
        return QuestionView(
            id=row.id,
            text=asked.text,
            source=row.new.source,
            row=row.new.row,
            pass_no=row.new.pass_no,
            position=row.pos,
            documents=asked.documents,
        )

    async def rollouts(self, question: UUID) -> Rollouts:
        """See the port."""
        rows = [row for row in self._db.rollouts.values() if row.question == question]
        return Rollouts(
            tuple(
                RolloutView(
                    number=row.number,
                    id=row.id,
                    ended=row.phase == Phase.ENDED,
                    history=tuple(map(msgspec.Raw, self._db.bodies(row.id))),
                )
                for row in sorted(rows, key=lambda row: row.number)
            )
        )

    async def consolidated(self, run: UUID, batch: int) -> Consolidated:
        """See the port."""
        rows = [
            row
            for row in self._db.questions.values()
            if row.batch == batch and self._db.runs[row.run_no].id == run
        ]
        return Consolidated(
            tuple(
                ConsolidatedQuestion(
                    question=row.id,
                    position=row.pos,
                    body=msgspec.Raw(self._db.bodies(row.id)[-1]),
                )
                for row in sorted(rows, key=lambda row: row.pos)
            )
        )

    async def candidates(self, run: UUID, number: int) -> Candidates:
        """See the port."""
        return candidates(self._db, run, number)

    async def groups(self, run: UUID, questions: Sequence[UUID]) -> Groups:
        """See the port."""
        del run  # a question's id says whose it is
        return Groups(tuple(group_view(self._db, question) for question in questions))

    async def dead_letter(self, letter: DeadLetterRow) -> tuple[Emitted, ...]:
        """See the port."""
        if letter.id in self._db.letters:
            return ()
        self._db.letters[letter.id] = letter
        event = DeadLetter(
            error_class=letter.error_class,
            message=letter.message,
            origin=letter.origin,
            sha256=sha256(letter.record).hexdigest(),
            attempts=letter.attempts,
        )
        self._db.append(
            Head(),
            NewEvent(
                run_no=letter.run_no,
                stream=letter.id,
                id=ids.event_id(letter.id, 1),
                kind=Kind.FACT,
                type=event_type(event),
                body=encode_payload(event),
                topic=topics.DEAD_LETTER,
                cause=letter.event_id,
            ),
        )
        fact = emitted(self._db.events[letter.id][-1], topics.DEAD_LETTER, outbound=True)
        self._db.outbox[fact.id] = OutboxRow(fact=fact, try_after=self._db.clock() + OUTBOX_GRACE)
        return (fact,)

    # --- rows ------------------------------------------------------------------------------------

    def _claimed(self, row: ActiveRow, claim: int, known: int) -> Claimed:
        return Claimed(
            stream=row.stream,
            version=row.head.version,
            claim=claim,
            kind=row.kind,
            run_no=row.run_no,
            status=row.status,
            topic=row.topic or "",
            event_id=row.pending,
            parent=row.parent,
            attempt=row.attempt,
            failures=row.failures,
            isolated_deaths=row.isolated_deaths,
            begun=self._begun(row),
            history=self._db.bodies(row.stream, known),
        )

    def _begun(self, row: ActiveRow) -> bool:
        """An earlier claim may have left effects, or one that was lost did."""
        begun = row.attempt > 1 or row.due_at is not None
        return begun or any(event == row.pending for event, _ in self._db.effects)

    def _idle(self, row: ActiveRow) -> bool:
        """A command that nobody works on and that may start now."""
        now = self._db.clock()
        moving = self._db.run_of(row).moving
        return row.topic is not None and moving and row.due(now) and not row.leased(now)

    def _startable(self, want: Want) -> ActiveRow | None:
        row = self._db.active.get(want.stream)
        if row is None or row.head.version != want.version or not self._idle(row):
            return None
        return row

    def _missing(
        self, row: ActiveRow, places: dict[tuple[str, int], TopicState], grace_s: float
    ) -> bool:
        """True when the broker has never had the command, has given it out, or has lost it."""
        if row.sent is None:
            return _age(row) < self._db.clock() - timedelta(seconds=grace_s)
        place = places.get((row.topic or "", row.sent[0]))
        if place is None:
            return False
        # Gone only if the end was read after the record was written: not if it is younger.
        settled = row.updated_at < self._db.clock() - timedelta(seconds=grace_s)
        return place.committed > row.sent[1] or (place.end <= row.sent[1] and settled)

    def _unsent_facts(self, grace_s: float, limit: int) -> list[Emitted]:
        now = self._db.clock()
        late = [row for row in self._db.outbox.values() if row.try_after < now][:limit]
        for row in late:
            row.try_after = self._db.after(grace_s)
        return [row.fact for row in late]

    def _overdue(self, row: ActiveRow) -> bool:
        """A question before its answer, or a rollout of an answered one, past the deadline."""
        if not self._db.run_of(row).moving:
            return False
        if row.kind is Kind.QUESTION:
            return self._expired(row) and row.status not in {"grading", "consolidating"}
        question = self._db.active.get(row.parent) if row.parent is not None else None
        if row.kind is not Kind.ROLLOUT or question is None:
            return False
        return self._expired(question) and question.status == "grading"

    def _expired(self, row: ActiveRow) -> bool:
        return row.deadline is not None and row.deadline < self._db.clock()

    def _run_is_due(self, run: RunRow) -> bool:
        if run.state != "running":
            return run.state == "closing"
        open_ = ("filling", "open")
        batches = [b for b in self._db.batches.values() if b.run_no == run.run_no]
        overdue = any(b.status in open_ and overdue_batch(self._db, run, b) for b in batches)
        return overdue or (run.manifest.label_wait_s is not None and self._has_waiting(run))

    def _has_waiting(self, run: RunRow) -> bool:
        questions = self._db.questions.values()
        return any(row.run_no == run.run_no and row.status == "waiting" for row in questions)


def _age(row: ActiveRow) -> datetime:
    """Since when a command could have been sent."""
    return row.updated_at if row.due_at is None else max(row.updated_at, row.due_at)


def _due(row: ActiveRow) -> Due:
    return Due(run_no=row.run_no, stream=row.stream, version=row.head.version, kind=row.kind)


def _run_view(run: RunRow) -> RunView:
    return RunView(
        run_no=run.run_no, id=run.id, name=run.name, scope=run.scope, manifest=run.manifest
    )


__all__ = ["InMemoryLedger"]
