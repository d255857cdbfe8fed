"""Runs of the twin: made, paused, resumed, closed."""

from __future__ import annotations

from hashlib import sha256

import msgspec

from mia_events import ids, topics
from mia_events.learning.versions import number_of
from mia_events.lifecycle import RUN, Kind, advance
from mia_events.memories import scope_of
from mia_events.steps import Manifest
from schemas import events as ev
from schemas.envelope import encode_payload
from schemas.events import Event, event_type
from storage.inmemory.advance import append_run_event
from storage.inmemory.policies import turn
from storage.inmemory.state import ActiveRow, Database, Head, NewEvent, OutboxRow, RunRow, emitted


class InMemoryRuns:
    """Operations on whole runs. Ids come from the name: a twin has no chance."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def create(self, name: str, manifest: Manifest, *, scope: str | None = None) -> int:
        """Make a run; its number."""
        number = len(self._db.runs) + 1
        run_id = ids.named_id(ids.NAMESPACE, f"run:{name}")
        digest = sha256(msgspec.json.encode(manifest)).hexdigest()
        run = self._db.runs[number] = RunRow(
            run_no=number,
            id=run_id,
            name=name,
            scope=scope_of(run_id, "default", scope),
            manifest=manifest,
        )
        created = ev.RunCreated(name=name, manifest_sha256=digest)
        append_run_event(self._db, run, created, ids.event_id(run_id, 1))
        if manifest.mode == "batch" or manifest.train:
            self._start_learner(run)
        return number

    async def pause(self, name: str) -> str:
        """Stop admission and claims; the new state."""
        run = self._named(name)
        run.paused_at = self._db.clock()
        return self._change(run, ev.RunPaused())

    async def resume(self, name: str) -> str:
        """Go on, timers moved by the length of the pause; the new state."""
        run = self._named(name)
        assert run.paused_at is not None
        pause = self._db.clock() - run.paused_at
        for row in self._db.of_run(run.run_no):
            row.deadline = row.deadline + pause if row.deadline else None
            row.due_at = row.due_at + pause if row.due_at else None
            row.sent = row.sent if row.claim is not None else None
        for batch in self._db.batches.values():
            if batch.run_no == run.run_no:
                batch.first_at += pause
                batch.opened_at = batch.opened_at + pause if batch.opened_at else None
        run.paused_at = None
        return self._change(run, ev.RunResumed(paused_seconds=pause.total_seconds()))

    async def close(self, name: str) -> str:
        """Admit nothing more; the new state."""
        return self._change(self._named(name), ev.RunClosed())

    async def set_policy(self, name: str, policy: str, *, reason: str = "") -> str:
        """Let new questions be served by a version; what served before."""
        run = self._named(name)
        served, number = run.policy, number_of(policy)
        if number is None or (number and (run.run_no, policy) not in self._db.policies):
            message = f"{policy} is no version of this run"
            raise LookupError(message)
        if policy == served:
            message = f"run {name} is served by {policy} already"
            raise ValueError(message)
        ordered = ev.RunPolicySet(policy=policy, previous=served, by="operator", reason=reason)
        self._change(run, ordered)
        fact = emitted(self._db.events[run.id][-1], topics.POLICY, outbound=True)
        self._db.outbox[fact.id] = OutboxRow(fact=fact, try_after=self._db.clock())
        turn(self._db, run, policy, "promoted")
        if number < (number_of(served) or 0):
            turn(self._db, run, served, "rolled_back")
        run.policy = policy
        sealed = self._db.serving.get(run.run_no, {})
        self._db.serving[run.run_no] = dict.fromkeys((0, *sealed), policy)
        return served

    def _named(self, name: str) -> RunRow:
        return next(run for run in self._db.runs.values() if run.name == name)

    def _change(self, run: RunRow, event: Event) -> str:
        rule = advance(Kind.RUN, RUN, run.state, event_type(event))
        append_run_event(self._db, run, event, ids.event_id(run.id, run.head.version + 1))
        run.state = rule.status
        return run.state

    def _start_learner(self, run: RunRow) -> None:
        stream, started, head = ids.learner_id(run.id), ev.LearnerStarted(), Head()
        event_id = ids.event_id(stream, 1)
        self._db.append(
            head,
            NewEvent(
                run_no=run.run_no,
                stream=stream,
                id=event_id,
                kind=Kind.LEARNER,
                type=event_type(started),
                body=encode_payload(started),
            ),
        )
        self._db.active[stream] = ActiveRow(
            stream=stream,
            run_no=run.run_no,
            kind=Kind.LEARNER,
            status="idle",
            head=head,
            pending=event_id,
            topic=None,
            parent=None,
            updated_at=self._db.clock(),
        )


__all__ = ["InMemoryRuns"]
