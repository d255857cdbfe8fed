"""Planner versions: registered in the transaction of the step that made them, read by name."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

import asyncpg

from mia_events.effects import Groups, GroupView
from mia_events.learning.groups import RecordedCall, rollout_turns
from mia_events.learning.versions import BASE
from storage.ports import PolicyRow
from storage.postgres.pool import RETRYABLE, Unavailable, answering
from storage.postgres.sql import queries

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from uuid import UUID

    from mia_events.steps import PolicyWrite
    from storage.postgres.pool import Connection

_Q: Final = queries("policies")
#: The advisory lock of whoever brings servers level.
_LEVELLING: Final = 0x6D69615F6C766C
_SHAS: Final = ("adapter_sha", "optimizer_sha", "data_sha")


class PostgresPolicies:
    """The `Policies` port."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def list(self, run_no: int) -> tuple[PolicyRow, ...]:
        """See the port."""
        async with answering():
            return tuple(map(_policy, await self._pool.fetch(_Q["list"], run_no)))

    async def get(self, run_no: int, name: str) -> PolicyRow | None:
        """See the port."""
        async with answering():
            row = await self._pool.fetchrow(_Q["get"], run_no, name)
        return None if row is None else _policy(row)

    async def wanted(self) -> tuple[PolicyRow, ...]:
        """See the port."""
        named = await self._named()
        runs, names = [run_no for run_no, _ in named], [name for _, name in named]
        async with answering():
            rows = await self._pool.fetch(_Q["of_names"], runs, names)
        return tuple(map(_policy, rows))

    async def on_base(self) -> tuple[int, ...]:
        """See the port."""
        return tuple(sorted(run_no for run_no, name in await self._named() if name == BASE))

    @asynccontextmanager
    async def levelling(self) -> AsyncIterator[bool]:
        """See the port. The lock is the connection's: it ends with it, and our work with both."""
        async with AsyncExitStack() as stack:
            async with answering():
                connection = await stack.enter_async_context(self._pool.acquire())
                stack.push_async_callback(_let_others, connection)
                mine = bool(await connection.fetchval(_Q["begin_levelling"], _LEVELLING))
            async with _as_long_as(connection):
                yield mine

    async def _named(self) -> tuple[tuple[int, str], ...]:
        """Runs and what requests of theirs may name."""
        async with answering():
            rows = await self._pool.fetch(_Q["named"])
        return tuple((row["run_no"], row["name"]) for row in rows)


class GroupsUsed(ValueError):
    """A step trains on groups that a batch has used before."""

    def __init__(self, write: PolicyWrite | None) -> None:
        super().__init__(f"train_group has groups of {write} already")


async def use_groups(connection: Connection, write: PolicyWrite, run_no: int) -> bool:
    """Use up a batch's groups, inside the caller's transaction; False when one was used before."""
    if write.groups is None:
        await connection.execute(_Q["use_all"], run_no, write.batch)
        return True
    status = await connection.execute(_Q["use"], list(write.groups), run_no, write.batch)
    return status == f"INSERT 0 {len(write.groups)}"


async def register(connection: Connection, write: PolicyWrite, *, run_no: int, cause: UUID) -> None:
    """Register what a batch's groups made, if anything, inside the caller's transaction.

    `cause` is the step's event.
    """
    new = write.version
    if new is None:
        return
    await connection.execute(
        _Q["register"],
        run_no,
        new.number,
        new.name,
        new.parent,
        write.batch,
        bytes.fromhex(new.adapter_sha256),
        bytes.fromhex(new.optimizer_sha256),
        bytes.fromhex(new.data_sha256),
        new.record,
        cause,
        datetime.now(UTC),
    )


def group_views(questions: Sequence[UUID], rollouts: Sequence[Any], calls: Sequence[Any]) -> Groups:
    """Groups from the rows of their rollouts and of the planner's calls, in the order asked."""
    by_rollout = {
        stream: [
            RecordedCall(
                topic=row["topic"],
                event_id=row["event_id"],
                ordinal=row["ordinal"],
                result=row["result"],
            )
            for row in rows
        ]
        for stream, rows in groupby(calls, key=lambda row: row["stream"])
    }
    views = {
        key[0]: GroupView(
            question=key[0],
            position=key[1],
            rollouts=tuple(
                rollout_turns(
                    row["number"], row["id"], row["history"], by_rollout.get(row["id"], [])
                )
                for row in rows
            ),
        )
        for key, rows in groupby(rollouts, key=lambda row: (row["question"], row["pos"]))
    }
    return Groups(tuple(views[question] for question in questions))


@asynccontextmanager
async def _as_long_as(connection: Connection) -> AsyncIterator[None]:
    """End what is done inside, with `Unavailable`, when the connection ends."""
    limit = asyncio.timeout(None)

    def gone(_: object) -> None:
        with suppress(RuntimeError):  # in the moment in which all is done
            limit.reschedule(0.0)

    try:
        async with limit:
            connection.add_termination_listener(gone)
            try:
                yield
            finally:
                with suppress(asyncpg.InterfaceError):  # it is gone from the pool already
                    connection.remove_termination_listener(gone)
    except TimeoutError as error:
        if limit.expired():
            raise Unavailable("the connection that holds the lock ended") from error
        raise


async def _let_others(connection: Connection) -> None:
    """Let the lock go, if it is ours; a connection that does not say that it did is ended."""
    let_go = False
    try:
        with suppress(*RETRYABLE):
            await connection.execute(_Q["end_levelling"])
            let_go = True
    finally:
        if not let_go:
            with suppress(asyncpg.InterfaceError):  # it is gone from the pool already
                connection.terminate()


def _policy(row: Any) -> PolicyRow:
    fields = {f"{name}256": row[name].hex() for name in _SHAS}
    return PolicyRow(**{k: v for k, v in row.items() if k not in _SHAS}, **fields)


__all__ = ["GroupsUsed", "PostgresPolicies", "group_views", "register", "use_groups"]
