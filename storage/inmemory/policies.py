"""Twin of the registry of planner versions, and what the ledger's twin says of groups."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from uuid import UUID

import msgspec

from mia_events import ids
from mia_events.commits import Decision
from mia_events.effects import Candidate, Candidates, GroupView
from mia_events.learning.groups import GRADED, PLANNED_ON, RecordedCall, rollout_turns
from mia_events.learning.job import Parent
from mia_events.learning.versions import BASE
from mia_events.lifecycle import ENDED
from mia_events.steps import PolicyWrite
from schemas.envelope import decode_payload
from schemas.events import LearnerSealed, LearnerUntrained
from storage.inmemory.state import ActiveRow, Database, QuestionRow, RunRow
from storage.ports import PolicyRow, PolicyState


class InMemoryPolicies:
    """The `Policies` port over a `Database`."""

    def __init__(self, db: Database) -> None:
        self._db = db
        self._levelling = False

    async def list(self, run_no: int) -> tuple[PolicyRow, ...]:
        """See the port."""
        return tuple(row for (run, _), row in self._db.policies.items() if run == run_no)

    async def get(self, run_no: int, name: str) -> PolicyRow | None:
        """See the port."""
        return self._db.policies.get((run_no, name))

    async def wanted(self) -> tuple[PolicyRow, ...]:
        """See the port."""
        return tuple(row for row in self._db.policies.values() if self._is_wanted(row))

    async def on_base(self) -> tuple[int, ...]:
        """See the port."""
        alive = [run for run in self._db.runs.values() if run.state != ENDED]
        return tuple(run.run_no for run in alive if BASE in self._named(run))

    @asynccontextmanager
    async def levelling(self) -> AsyncIterator[bool]:
        """See the port."""
        mine, self._levelling = not self._levelling, True
        try:
            yield mine
        finally:
            if mine:
                self._levelling = False

    def _is_wanted(self, row: PolicyRow) -> bool:
        run = self._db.runs[row.run_no]
        return run.state != ENDED and row.name in self._named(run)

    def _named(self, run: RunRow) -> Iterator[str | None]:
        mine = run.run_no
        for batch in self._db.batches.values():
            if batch.run_no == mine and batch.status != ENDED:
                yield batch.policy
        for question in self._db.questions.values():
            if question.run_no == mine and not question.closed:
                yield question.policy
        for row in self._db.policies.values():
            if row.run_no == mine and row.state == "candidate":
                yield from (row.name, row.parent)
        yield _best(self._db, run)
        learner = self._db.active.get(ids.learner_id(run.id))
        if learner is not None and learner.status == "guarding":
            yield BASE
            yield _looked_at(self._db, learner)
        generations = range(run.sealed_gen - run.manifest.lag, run.sealed_gen + 1)
        serve = [run.policy, *(policy_of(self._db, mine, max(0, one)) for one in generations)]
        yield from (name for name in serve if name != BASE or run.manifest.train)


def _looked_at(db: Database, learner: ActiveRow) -> str | None:
    """What is compared with the best where nothing was made."""
    pending = next(one for one in db.events[learner.stream] if one.id == learner.pending)
    payload = decode_payload(pending.body)
    return payload.policy if isinstance(payload, LearnerUntrained) else None


def _best(db: Database, run: RunRow) -> str | None:
    """What the newest decision that names one names as the best version."""
    events = reversed(db.events.get(ids.learner_id(run.id), []))
    sealed = (decode_payload(event.body) for event in events if event.type == "learner.sealed")
    return next((one.best for one in sealed if isinstance(one, LearnerSealed) and one.best), None)


def refuse_used(db: Database, write: PolicyWrite, *, run_no: int) -> None:
    """Raise `ValueError` for groups that were used before, or a version that is there."""
    again = [question for question in write.groups or () if question in db.used_groups]
    new = write.version
    if again or (new is not None and (run_no, new.name) in db.policies):
        message = f"train_group has {again} or policy has {new and new.name} already"
        raise ValueError(message)


def write_policy(db: Database, write: PolicyWrite, *, run_no: int, cause: UUID) -> None:
    """Use up groups and register what they made."""
    groups = _every_group(db, run_no, write.batch) if write.groups is None else write.groups
    db.used_groups |= dict.fromkeys(groups, write.batch)
    if write.version is not None:
        db.policies[run_no, write.version.name] = PolicyRow(
            **msgspec.structs.asdict(write.version),
            run_no=run_no,
            batch=write.batch,
            state="candidate",
            event_id=cause,
            at=db.clock(),
        )


def _every_group(db: Database, run_no: int, batch: int) -> list[UUID]:
    """What a batch could have used; in live mode as many as make one."""
    manifest = db.runs[run_no].manifest
    free = [row.id for row in trainable(db, run_no) if row.batch is None or row.batch <= batch]
    return free[: manifest.batch_size] if manifest.mode == "live" else free


def seal(db: Database, run: RunRow, generation: int, decision: Decision | None) -> None:
    """Apply a guard's decision, if there is one, and note what serves from this generation on."""
    if decision is not None:
        _decide(db, run, decision)
    db.serving.setdefault(run.run_no, {})[generation] = run.policy


def policy_of(db: Database, run_no: int, generation: int) -> str:
    """What serves the batches that are pinned to a generation."""
    sealed = db.serving.get(run_no, {})
    newest = max((number for number in sealed if number <= generation), default=None)
    return BASE if newest is None else sealed[newest]


def _decide(db: Database, run: RunRow, found: Decision) -> None:
    """Apply a decision to the registry, and to the run unless an operator came between."""
    if found.state != "held_back" or run.policy != found.candidate:
        turn(db, run, found.candidate, found.state)
    if found.serves not in (found.served, found.candidate):
        turn(db, run, found.served, "rolled_back")
    if run.policy == found.served:
        run.policy = found.serves


def turn(db: Database, run: RunRow, name: str, state: PolicyState) -> None:
    """Give a version another state; nothing for the base model."""
    row = db.policies.get((run.run_no, name))
    if row is not None:
        db.policies[run.run_no, name] = msgspec.structs.replace(row, state=state)


def candidates(db: Database, run: UUID, number: int) -> Candidates:
    """See `Ledger.candidates`."""
    (of,) = [row for row in db.runs.values() if row.id == run]
    items = tuple(
        Candidate(question=row.id, position=row.pos, batch=row.batch, policy=row.policy)
        for row in trainable(db, of.run_no)
        if row.batch is None or row.batch <= number
    )
    serving = db.policies.get((of.run_no, of.policy))
    if serving is None:
        return Candidates(items=items, parent=Parent(policy=of.policy))
    return Candidates(
        items=items,
        parent=Parent(
            policy=of.policy,
            adapter_sha256=serving.adapter_sha256,
            optimizer_sha256=serving.optimizer_sha256,
        ),
    )


def trainable(db: Database, run_no: int) -> list[QuestionRow]:
    """Groups that no batch has used, with two graded rollouts or more, by position."""
    graded = Counter(o.question for o in db.rollouts.values() if o.outcome in GRADED)
    rows = (row for row in db.questions.values() if row.run_no == run_no and row.closed)
    free = [row for row in rows if graded[row.id] > 1 and row.id not in db.used_groups]
    return sorted(free, key=lambda row: row.pos)


def group_view(db: Database, question: UUID) -> GroupView:
    """See `Ledger.groups`."""
    rows = [row for row in db.rollouts.values() if row.question == question]
    return GroupView(
        question=question,
        position=db.questions[question].pos,
        rollouts=tuple(
            rollout_turns(row.number, row.id, db.bodies(row.id), _calls(db, row.id))
            for row in sorted(rows, key=lambda row: row.number)
        ),
    )


def _calls(db: Database, rollout: UUID) -> list[RecordedCall]:
    commands = {e.id: e for e in db.events[rollout] if e.topic in PLANNED_ON}
    found = [
        (commands[event].seq, ordinal, row)
        for (event, ordinal), row in db.effects.items()
        if event in commands and row.kind == "call"
    ]
    return [
        RecordedCall(
            topic=commands[row.event_id].topic or "",
            event_id=row.event_id,
            ordinal=ordinal,
            result=row.result,
        )
        for _, ordinal, row in sorted(found, key=lambda one: one[:2])
    ]


__all__ = [
    "InMemoryPolicies",
    "candidates",
    "group_view",
    "policy_of",
    "refuse_used",
    "seal",
    "trainable",
    "turn",
    "write_policy",
]
