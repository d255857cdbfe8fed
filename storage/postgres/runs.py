"""Runs: made with their manifest, paused, resumed, closed, cancelled; each change is an event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import msgspec

from mia_events import ids
from mia_events.chain import GENESIS, chain_hash
from mia_events.learning.versions import BASE, number_of
from mia_events.lifecycle import RUN, Kind, Rule, advance
from mia_events.memories import scope_of
from schemas import events as ev
from schemas.envelope import encode_payload
from storage.postgres.pool import answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    import asyncpg

    from mia_events.steps import Manifest
    from schemas.events import Event
    from storage.postgres.pool import Connection

_Q = queries("runs")


class RunExists(ValueError):
    """A run of that name is there already."""


class RunSummary(msgspec.Struct, frozen=True, kw_only=True):
    """A run as `mia run list` shows it."""

    run_no: int
    id: UUID
    name: str
    tenant: str
    scope: str
    mode: str
    state: str
    accepted: int
    opened: int
    ended: int
    sealed_gen: int
    rollouts: int
    batch_size: int
    lag: int
    policy: str
    created_at: datetime
    finished_at: datetime | None


class QuestionPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a question belongs; `closed` once it has ended."""

    run_no: int
    run: str
    status: str
    closed: bool


class PostgresRuns:
    """Operations on whole runs. Needs the admitting role: it makes partitions."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def create(
        self, name: str, manifest: Manifest, *, tenant: str = "default", scope: str | None = None
    ) -> int:
        """Make a run; its number. `scope` names memories that runs of one tenant share.

        Raises `RunExists`, `ValueError` for a tenant's name that is none.
        """
        run, at = uuid4(), datetime.now(UTC)
        body = msgspec.json.encode(manifest)
        created = ev.RunCreated(name=name, manifest_sha256=sha256(body).hexdigest())
        head = _hash(GENESIS, run, 1, created, at)
        async with answering(), self._pool.acquire() as connection, connection.transaction():
            number: int | None = await connection.fetchval(
                _Q["create"],
                run,
                name,
                tenant,
                scope_of(run, tenant, scope),
                manifest.mode,
                body,
                manifest.rollouts,
                manifest.batch_size,
                manifest.lag,
                manifest.max_in_flight,
                _interval(manifest.question_deadline_s),
                _interval(manifest.batch_linger_s),
                _interval(manifest.batch_deadline_s),
                head,
                at,
                manifest.train,
                manifest.staleness,
                _interval(manifest.label_wait_s),
            )
            if number is None:
                message = (
                    f"there is a run named {name!r}: choose another name, or `mia run show {name}`"
                )
                raise RunExists(message)
            await connection.execute("SELECT create_run_partitions($1)", number)
            await _log(connection, number, run, Kind.RUN, 1, created, head, at)
            if manifest.mode == "batch" or manifest.train:
                learner, started = ids.learner_id(run), ev.LearnerStarted()
                head = _hash(GENESIS, learner, 1, started, at)
                await _log(connection, number, learner, Kind.LEARNER, 1, started, head, at)
                await connection.execute(_Q["start_learner"], learner, number, head, at)
        return number

    async def list(self) -> list[RunSummary]:
        """All runs, newest first."""
        async with answering():
            rows = await self._pool.fetch(_Q["list"])
        return [RunSummary(**row) for row in rows]

    async def counts(self, run_no: int) -> dict[str, int]:
        """Questions of a run by status."""
        async with answering():
            rows = await self._pool.fetch(_Q["counts"], run_no)
        return {row["status"]: row["n"] for row in rows}

    async def pause(self, name: str) -> str:
        """Stop admission and claims; what runs may end. The new state."""
        return await self._change(name, ev.RunPaused())

    async def resume(self, name: str) -> str:
        """Go on, deadlines moved by the length of the pause. The new state."""
        return await self._change(name, None)

    async def close(self, name: str) -> str:
        """Admit nothing more. The new state."""
        return await self._change(name, ev.RunClosed())

    async def cancel(self, name: str) -> str:
        """Abandon the run. Its questions must have ended: see `unfinished`. The new state."""
        return await self._change(name, ev.RunCancelled())

    async def set_policy(self, name: str, policy: str, *, reason: str = "") -> str:
        """Let new questions be served by a version: an operator's order. What served before.

        A version that is gone back from is rolled back. Raises `LookupError` for a version that is
        not registered, `ValueError` for the one that serves already.
        """
        at = datetime.now(UTC)
        async with answering(), self._pool.acquire() as connection, connection.transaction():
            row = await self._locked(connection, name)
            served: str = row["policy"]
            number = await self._number_of(connection, row["run_no"], policy)
            if policy == served:
                message = f"run {name} is served by {policy} already"
                raise ValueError(message)
            event = ev.RunPolicySet(policy=policy, previous=served, by="operator", reason=reason)
            rule, seq, head = await self._append(connection, row, event, at)
            await connection.execute(
                _Q["set_state"], row["run_no"], rule.status, seq, head, row["paused_at"], at
            )
            await connection.execute(_Q["set_policy"], row["run_no"], policy, served, number)
            event_id = ids.event_id(row["id"], seq)
            await connection.execute(
                _Q["announce"], event_id, row["run_no"], row["id"], seq, rule.outbox, at
            )
        return served

    async def find_question(self, question: UUID) -> QuestionPlace:
        """Where a question belongs. Raises `LookupError`."""
        async with answering():
            row = await self._pool.fetchrow(_Q["find_question"], question)
        if row is None:
            message = f"no question {question}"
            raise LookupError(message)
        return QuestionPlace(
            run_no=row["run_no"], run=row["name"], status=row["status"], closed=row["closed"]
        )

    async def unfinished(self, run_no: int) -> tuple[UUID, ...]:
        """A run's questions that have not ended, waiting ones included, by position."""
        async with answering():
            rows = await self._pool.fetch(_Q["unfinished"], run_no)
        return tuple(row["id"] for row in rows)

    async def place_of_source(self, run_no: int, source: str) -> tuple[str | None, int]:
        """(row, position) of a question of `source`, else (None, where a new source begins)."""
        async with answering():
            row = await self._pool.fetchrow(_Q["place_of_source"], run_no, source)
        if row is None:
            message = f"no run number {run_no}"
            raise LookupError(message)
        return (None, row["next_pos"]) if row["row"] is None else (row["row"], row["pos"])

    async def wake(self, question: UUID) -> None:
        """Make a waiting question's stream one that can be pre-empted; nothing for any other."""
        async with answering():
            await self._pool.execute(_Q["wake"], question, datetime.now(UTC))

    async def open_rollouts(self, question: UUID) -> tuple[UUID, ...]:
        """A question's rollouts that have not ended."""
        async with answering():
            rows = await self._pool.fetch(_Q["open_rollouts"], question)
        return tuple(row["stream"] for row in rows)

    async def _change(self, name: str, event: Event | None) -> str:
        at = datetime.now(UTC)
        async with answering(), self._pool.acquire() as connection, connection.transaction():
            row = await self._locked(connection, name)
            if event is None:
                event = await self._thaw(connection, row, at)
            rule, seq, head = await self._append(connection, row, event, at)
            paused = at if isinstance(event, ev.RunPaused) else None
            if isinstance(event, ev.RunClosed):
                paused = row["paused_at"]
            await connection.execute(
                _Q["set_state"], row["run_no"], rule.status, seq, head, paused, at
            )
            if isinstance(event, ev.RunCancelled):
                await connection.execute(_Q["end_learner"], row["run_no"])
        return rule.status

    async def _locked(self, connection: Connection, name: str) -> asyncpg.Record:
        await connection.execute(_Q["lock_learner"], name)
        row: asyncpg.Record | None = await connection.fetchrow(_Q["lock"], name)
        if row is None:
            message = f"no run {name!r}: `mia run list` shows what there is"
            raise LookupError(message)
        return row

    async def _append(
        self, connection: Connection, row: asyncpg.Record, event: Event, at: datetime
    ) -> tuple[Rule, int, bytes]:
        """Add to the run's stream what its state allows; the rule, the new version and head."""
        rule = advance(Kind.RUN, RUN, row["state"], ev.event_type(event))
        seq = row["version"] + 1
        head = _hash(row["head"], row["id"], seq, event, at)
        await _log(connection, row["run_no"], row["id"], Kind.RUN, seq, event, head, at)
        return rule, seq, head

    async def _number_of(self, connection: Connection, run_no: int, policy: str) -> int:
        number = number_of(policy)
        found = await connection.fetchval(_Q["has_version"], run_no, policy)
        if number is None or not (policy == BASE or found):
            message = f"{policy} is no version of this run: `mia policy list` shows what there is"
            raise LookupError(message)
        return number

    async def _thaw(
        self, connection: Connection, row: asyncpg.Record, at: datetime
    ) -> ev.RunResumed:
        pause = at - row["paused_at"] if row["paused_at"] is not None else timedelta()
        await connection.execute(_Q["freeze"], row["run_no"], pause)
        await connection.execute(_Q["freeze_batches"], row["run_no"], pause)
        return ev.RunResumed(paused_seconds=pause.total_seconds())


def _interval(seconds: float | None) -> timedelta | None:
    return timedelta(seconds=seconds) if seconds is not None else None


def _hash(previous: bytes, stream: UUID, seq: int, event: Event, at: datetime) -> bytes:
    return chain_hash(
        previous,
        stream=stream,
        seq=seq,
        event_id=ids.event_id(stream, seq),
        cause=None,
        at=at,
        body_sha256=sha256(encode_payload(event)).digest(),
        type_=ev.event_type(event),
    )


async def _log(
    connection: Connection,
    run_no: int,
    stream: UUID,
    kind: Kind,
    seq: int,
    event: Event,
    head: bytes,
    at: datetime,
) -> None:
    body = encode_payload(event)
    await connection.execute(
        "INSERT INTO event (run_no, stream, seq, id, kind, type, at, body_sha, hash, body) "
        "VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
        run_no,
        stream,
        seq,
        ids.event_id(stream, seq),
        kind,
        ev.event_type(event),
        at,
        sha256(body).digest(),
        head,
        body,
    )


__all__ = ["PostgresRuns", "QuestionPlace", "RunExists", "RunSummary"]
