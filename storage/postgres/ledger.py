"""The ledger on Postgres: each method is one round trip and one transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import msgspec

from mia_events import ids, topics
from mia_events.effects import (
    Candidate,
    Candidates,
    Consolidated,
    ConsolidatedQuestion,
    Groups,
    Rollouts,
    RolloutView,
)
from mia_events.learning.groups import PLANNED_ON
from mia_events.learning.job import Parent
from mia_events.lifecycle import Kind
from mia_events.steps import Manifest, QuestionView, RunView
from schemas.envelope import encode_payload
from schemas.events import DeadLetter, QuestionAsked
from storage.ports import (
    Accepted,
    Claimed,
    CommitResult,
    DeadLetterRow,
    Due,
    EffectRow,
    Emitted,
    NewQuestion,
    Outcome,
    Pending,
    PendingCommit,
    Sent,
    TopicState,
    Want,
)
from storage.postgres.memory import write_memories
from storage.postgres.policies import GroupsUsed, group_views, register, use_groups
from storage.postgres.pool import Unavailable, answering, open_pool
from storage.postgres.rows import commit_rows
from storage.postgres.sql import queries

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg
    from asyncpg.pool import PoolConnectionProxy

    from mia_events.commits import StepCommit
    from storage.postgres.pool import Connection

_Q = queries("ledger")


class PostgresLedger:
    """The `Ledger` port. `sealed` adapters (the judge's role) also read sealed effects."""

    def __init__(self, durable: asyncpg.Pool, relaxed: asyncpg.Pool, *, sealed: bool) -> None:
        self._durable = durable
        self._relaxed = relaxed
        self._sealed = sealed
        self._kept: list[PoolConnectionProxy[Any]] = []

    @classmethod
    async def open(cls, dsn: str, *, sealed: bool = False, size: int = 4) -> PostgresLedger:
        """Connect. Raises `Unavailable`."""
        durable = await open_pool(dsn, size=size)
        return cls(durable, await open_pool(dsn, size=size, durable=False), sealed=sealed)

    async def close(self) -> None:
        """Give the connections back."""
        while self._kept:
            await self._durable.release(self._kept.pop())
        await self._durable.close()
        await self._relaxed.close()

    @property
    def pool(self) -> asyncpg.Pool:
        """The durable pool, for adapters that share it."""
        return self._durable

    async def new_worker(self, name: str) -> int:
        """A number that no other process has had."""
        async with answering():
            number: int = await self._durable.fetchval(_Q["new_worker"], name)
        return number

    async def claim(self, wants: Sequence[Want], *, lease_s: float) -> list[Claimed]:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(
                _Q["claim"],
                [w.stream for w in wants],
                [w.version for w in wants],
                [w.claim for w in wants],
                [w.known for w in wants],
                timedelta(seconds=lease_s),
                self._sealed,
            )
        return [
            msgspec.structs.replace(_claimed(row), question=question_view(row, row["parent"]))
            if row["asked"] is not None
            else _claimed(row)
            for row in rows
        ]

    async def commit(self, units: Sequence[PendingCommit], *, lease_s: float) -> CommitResult:
        """See the port. A unit that writes memories or a planner version must come alone."""
        at = datetime.now(UTC)
        arguments = (at, timedelta(seconds=lease_s), *commit_rows(units))
        async with answering():
            if len(units) == 1 and units[0].step is not None and units[0].step.alone:
                row = await self._commit_alone(units[0].step, arguments)
            else:
                row = await self._commit(arguments)
        return _result(units, row, at)

    async def _commit(self, arguments: tuple[Any, ...]) -> Any:
        """Commit on a connection that is kept for it: the pool takes a tenth of a commit's time."""
        connection = self._kept.pop() if self._kept else await self._durable.acquire()
        try:
            row = await connection.fetchrow(_Q["commit"], *arguments)
        except BaseException:
            await self._durable.release(connection)
            raise
        self._kept.append(connection)
        return row

    async def _commit_alone(self, step: StepCommit, arguments: tuple[Any, ...]) -> Any:
        async with self._durable.acquire() as connection:
            transaction = connection.transaction()
            await transaction.start()
            try:
                row = await self._written(connection, step, arguments)
            except BaseException:
                await transaction.rollback()
                raise
            await (transaction.commit() if row["applied"] else transaction.rollback())
            return row

    async def _written(
        self, connection: Connection, step: StepCommit, arguments: tuple[Any, ...]
    ) -> Any:
        # Groups come first: the step's own transaction may look for those that are left.
        whole = step.policy is None or await use_groups(connection, step.policy, step.run_no)
        row: Any = await connection.fetchrow(_Q["commit"], *arguments)
        if not row["applied"]:
            return row
        if not whole:
            raise GroupsUsed(step.policy)
        cause = step.entries[0].event_id
        if step.memory is not None:
            await write_memories(connection, step.memory, run_no=step.run_no, cause=cause)
        if step.policy is not None:
            await register(connection, step.policy, run_no=step.run_no, cause=cause)
        return row

    async def renew(self, claims: Sequence[tuple[UUID, int]], *, lease_s: float) -> set[int]:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(
                _Q["renew"],
                [c[0] for c in claims],
                [c[1] for c in claims],
                timedelta(seconds=lease_s),
            )
        return {row["claim"] for row in rows}

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
        async with answering():
            held: bool | None = await self._durable.fetchval(
                _Q["release"], stream, claim, timedelta(seconds=delay_s), failed, isolated_death
            )
        return bool(held)

    async def accept(self, run_no: int, questions: Sequence[NewQuestion]) -> Accepted:
        """See the port."""
        async with answering():
            row: Any = await self._durable.fetchrow(
                _Q["accept"],
                run_no,
                datetime.now(UTC),
                [q.id for q in questions],
                [q.source for q in questions],
                [q.row for q in questions],
                [q.pass_no for q in questions],
                [q.urgent for q in questions],
                [q.position for q in questions],
                [ids.event_id(q.id, 1) for q in questions],
                [ids.join_id(q.id, "opened") for q in questions],
                [q.body for q in questions],
            )
        return Accepted(tuple(row["outcomes"]), tuple(_emitted(e) for e in row["emissions"]))

    async def advance(self, run_no: int) -> tuple[Emitted, ...]:
        """See the port."""
        async with answering():
            rows = await self._durable.fetch(_Q["advance"], run_no, datetime.now(UTC))
        return tuple(_emitted(row) for row in rows)

    async def effects(self, run_no: int, event_id: UUID) -> list[EffectRow]:
        """See the port. Without the judge's role sealed effects are not read."""
        async with answering():
            rows = [(r, False) for r in await self._relaxed.fetch(_Q["effects"], run_no, event_id)]
            if self._sealed:
                sealed = await self._relaxed.fetch(_Q["sealed_effects"], run_no, event_id)
                rows += [(r, True) for r in sealed]
        found = [
            EffectRow(
                run_no=run_no,
                event_id=event_id,
                ordinal=row["ordinal"],
                kind=row["kind"],
                policy=row["policy"],
                request_sha=row["request_sha"],
                result=row["result"],
                sealed=sealed,
            )
            for row, sealed in rows
        ]
        return sorted(found, key=lambda effect: effect.ordinal)

    async def mark_sent(self, sent: Sequence[Sent]) -> None:
        """See the port."""
        async with answering():
            await self._relaxed.execute(
                _Q["mark_sent"],
                [s.stream for s in sent],
                [s.version for s in sent],
                [s.partition for s in sent],
                [s.offset for s in sent],
            )

    async def acknowledge(self, outbound: Sequence[UUID]) -> None:
        """See the port."""
        async with answering():
            await self._relaxed.execute(_Q["acknowledge"], list(outbound))

    async def unsent(
        self, topics: Sequence[TopicState], *, grace_s: float, limit: int
    ) -> list[Emitted]:
        """See the port."""
        grace = timedelta(seconds=grace_s)
        async with answering():
            commands = await self._relaxed.fetch(
                _Q["unsent_commands"],
                [t.topic for t in topics],
                [t.partition for t in topics],
                [t.committed for t in topics],
                [t.end for t in topics],
                grace,
                limit,
            )
            facts = await self._relaxed.fetch(_Q["unsent_facts"], grace, limit)
        return [_emitted(row) for row in (*commands, *facts)]

    async def topics_created(self, names: Sequence[str]) -> None:
        """See the port."""
        async with answering():
            await self._relaxed.execute(_Q["topics_created"], list(names))

    async def overdue(self, *, limit: int) -> list[Due]:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(_Q["overdue"], limit)
        return [
            Due(run_no=r["run_no"], stream=r["stream"], version=r["version"], kind=Kind(r["kind"]))
            for r in rows
        ]

    async def urgent(self, topics: Sequence[str], *, limit: int) -> list[Pending]:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(_Q["urgent"], list(topics), limit)
        return [Pending(row["stream"], row["version"], row["topic"]) for row in rows]

    async def due_runs(self) -> list[int]:
        """See the port."""
        async with answering():
            return [row["run_no"] for row in await self._relaxed.fetch(_Q["due_runs"])]

    async def load(self, run_no: int, stream: UUID) -> tuple[Claimed, ...]:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(_Q["load"], run_no, stream)
        return tuple(_claimed(row) for row in rows)

    async def run(self, run_no: int) -> RunView:
        """See the port."""
        async with answering():
            row = await self._relaxed.fetchrow(_Q["run"], run_no)
        return _run(row, f"number {run_no}")

    async def run_named(self, name: str) -> tuple[RunView, str]:
        """See the port."""
        async with answering():
            row: Any = await self._relaxed.fetchrow(_Q["run_named"], name)
        return _run(row, repr(name)), row["state"]

    async def question(self, question: UUID) -> QuestionView:
        """See the port."""
        async with answering():
            row = await self._relaxed.fetchrow(_Q["question"], question)
        if row is None:
            message = f"no question {question}"
            raise LookupError(message)
        return question_view(row, question)

    async def rollouts(self, question: UUID) -> Rollouts:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(_Q["rollouts"], question)
        return Rollouts(
            tuple(
                RolloutView(
                    number=row["number"],
                    id=row["id"],
                    ended=row["ended"],
                    history=tuple(msgspec.Raw(body) for body in row["history"]),
                )
                for row in rows
            )
        )

    async def consolidated(self, run: UUID, batch: int) -> Consolidated:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(_Q["consolidated"], run, batch)
        return Consolidated(
            tuple(
                ConsolidatedQuestion(
                    question=row["id"], position=row["pos"], body=msgspec.Raw(row["body"])
                )
                for row in rows
            )
        )

    async def candidates(self, run: UUID, number: int) -> Candidates:
        """See the port."""
        async with answering():
            rows = await self._relaxed.fetch(_Q["candidates"], run, number)
            serving = await self._relaxed.fetchrow(_Q["parent"], run)
        if serving is None:
            message = f"no run {run}"
            raise LookupError(message)
        return Candidates(
            items=tuple(
                Candidate(
                    question=row["id"],
                    position=row["pos"],
                    batch=row["batch"],
                    policy=row["policy"],
                )
                for row in rows
            ),
            parent=Parent(
                policy=serving["policy"],
                adapter_sha256=serving["adapter"] or "",
                optimizer_sha256=serving["optimizer"] or "",
            ),
        )

    async def groups(self, run: UUID, questions: Sequence[UUID]) -> Groups:
        """See the port."""
        del run  # a question's id says whose it is
        async with answering():
            rows = await self._relaxed.fetch(_Q["group_rollouts"], list(questions))
            calls = await self._relaxed.fetch(
                _Q["planner_calls"], list(questions), list(PLANNED_ON)
            )
        return group_views(questions, rows, calls)

    async def dead_letter(self, letter: DeadLetterRow) -> tuple[Emitted, ...]:
        """See the port."""
        at = datetime.now(UTC)
        digest = sha256(letter.record)
        body = encode_payload(
            DeadLetter(
                error_class=letter.error_class,
                message=letter.message,
                origin=letter.origin,
                sha256=digest.hexdigest(),
                attempts=letter.attempts,
            )
        )
        event = ids.event_id(letter.id, 1)
        headers = [[name, value.hex()] for name, value in letter.headers]
        async with answering():
            row = await self._durable.fetchrow(
                _Q["dead_letter"],
                letter.id,
                letter.run_no,
                letter.stream,
                letter.event_id,
                letter.error_class,
                letter.message,
                letter.origin,
                letter.attempts,
                digest.digest(),
                at,
                letter.record,
                msgspec.json.encode(headers).decode(),
                event,
                body.decode(),
            )
        if row is None:
            return ()
        return (
            Emitted(
                run_no=letter.run_no,
                stream=letter.id,
                seq=1,
                id=event,
                type="dead_letter",
                topic=topics.DEAD_LETTER,
                body=body,
                at=at,
                cause=letter.event_id,
                correlation=None,
                kind=Kind.FACT,
                outbound=True,
            ),
        )


def _claimed(row: Any) -> Claimed:
    return Claimed(
        stream=row["stream"],
        version=row["version"],
        claim=row["claim"],
        kind=Kind(row["kind"]),
        run_no=row["run_no"],
        status=row["status"],
        topic=row["topic"],
        event_id=row["event_id"],
        parent=row["parent"],
        attempt=row["attempt"],
        failures=row["failures"],
        isolated_deaths=row["isolated_deaths"],
        begun=row["begun"],
        history=tuple(row["history"]),
    )


def question_view(row: Any, question: UUID) -> QuestionView:
    """A question from its row; `asked` is the body of its first event."""
    asked = msgspec.json.decode(row["asked"], type=QuestionAsked)
    return QuestionView(
        id=question,
        text=asked.text,
        source=row["source"],
        row=row["row"],
        pass_no=row["pass_no"],
        position=row["pos"],
        documents=asked.documents,
    )


def _emitted(row: Any) -> Emitted:
    return Emitted(
        run_no=row["run_no"],
        stream=row["stream"],
        seq=row["seq"],
        id=row["id"],
        type=row["type"],
        topic=row["topic"],
        body=row["body"],
        at=row["at"],
        cause=row["cause"],
        correlation=row["correlation"],
        kind=Kind(row["kind"]),
        outbound=row["outbound"],
    )


def _run(row: Any, what: str) -> RunView:
    if row is None:
        message = f"no run {what}: `mia run list` shows what there is"
        raise LookupError(message)
    return RunView(
        run_no=row["run_no"],
        id=row["id"],
        name=row["name"],
        scope=row["scope"],
        manifest=msgspec.json.decode(row["manifest"], type=Manifest),
    )


def _result(units: Sequence[PendingCommit], row: Any, at: datetime) -> CommitResult:
    lost, conflicts = set(row["lost"]), set(row["conflicts"])
    outcomes: list[Outcome] = [
        "conflict" if i in conflicts else "lost" if i in lost else "committed"
        for i in range(len(units))
    ]
    emitted: list[Emitted] = []
    seqs = dict(zip(row["applied"] or (), row["seqs"] or (), strict=True))
    position = 0
    for unit in units:
        if unit.step is None:
            continue
        for entry in unit.step.entries:
            position += 1
            seq = seqs.get(position)
            if seq is None:
                continue
            for topic, outbound in ((entry.topic, False), (entry.outbox, True)):
                if topic is not None:
                    emitted.append(
                        Emitted(
                            run_no=unit.step.run_no,
                            stream=entry.stream,
                            seq=seq,
                            id=entry.event_id,
                            type=entry.type,
                            topic=topic,
                            body=entry.body,
                            at=at,
                            cause=entry.cause,
                            correlation=entry.parent,
                            kind=entry.kind,
                            outbound=outbound,
                            claimed=entry.next_claim is not None and not outbound,
                        )
                    )
    emitted.extend(_emitted(e) for e in row["emissions"])
    return CommitResult(tuple(outcomes), tuple(emitted))


__all__ = ["PostgresLedger", "Unavailable", "question_view"]
