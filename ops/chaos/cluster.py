"""A cluster of its own: a database and topics on a stack, a scripted model, and workers."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import asyncpg
import msgspec

from consumers import prompts
from consumers.effects.model_client import Endpoint
from mia_events import ids, topics
from mia_events.lifecycle import NoTransition
from mia_events.steps import Manifest, ModelChoice, RunView
from ops.audit import Report, audit
from ops.chaos.crew import NOTHING, Crew, Member
from ops.chaos.desk import Desk, execute, patiently, until
from ops.chaos.questions import SOURCE, Asked, send
from ops.chaos.scripted import ScriptedServer, scripted_model
from ops.models import ROLES as MODEL_ROLES
from ops.worker import WorkerConfig
from storage.postgres.labels import PostgresLabels
from storage.postgres.ledger import PostgresLedger
from storage.postgres.migrate import migrate
from storage.postgres.pool import open_pool
from storage.postgres.roles import ROLES, ensure_roles, role_dsn
from storage.postgres.runs import PostgresRuns

__all__ = ["Cluster", "Stack", "cluster", "scripted_manifest"]

_ENDED_S = 1_800.0


class Stack(Protocol):
    """Kafka and Postgres under a supervisor that starts them again, such as an `EmbeddedStack`."""

    @property
    def bootstrap_servers(self) -> str:
        """Where Kafka's clients begin."""
        ...

    @property
    def admin_dsn(self) -> str:
        """The superuser's DSN: never print it."""
        ...

    def kill(self, name: str) -> int:
        """Kill `kafka` or `postgres` as chance would; the pid that was hit, 0 when it was down."""
        ...

    async def wipe_kafka(self) -> None:
        """Delete all that Kafka holds; returns when it answers again."""
        ...


def scripted_manifest(**chosen: object) -> Manifest:
    """Return the manifest of a run on the scripted model: deterministic batches unless chosen."""
    roles = {
        role: ModelChoice(model="scripted", temperature=1.0 if role == "planner" else 0.0)
        for role in MODEL_ROLES
    }
    base: dict[str, Any] = {"mode": "batch", "deterministic": True, "seed": 7}
    fields = msgspec.to_builtins(Manifest(prompts=prompts.load(), roles=roles))
    return msgspec.convert({**fields, **base, **chosen}, Manifest)


@dataclass(frozen=True)
class Cluster:
    """What a trial works with. `config` is a worker's, without stages chosen."""

    stack: Stack
    model: ScriptedServer
    crew: Crew
    config: WorkerConfig
    audit_dsn: str

    @property
    def desk(self) -> Desk:
        """The ledger, for readers who wait while it is away."""
        return Desk(self.audit_dsn)

    def topic(self, name: str) -> str:
        """Return a topic's name in the broker."""
        return self.config.prefix + name

    def hire(
        self,
        name: str,
        stages: Sequence[str] = (),
        variables: Mapping[str, str] = NOTHING,
        **changes: object,
    ) -> Member:
        """Start a worker, of all stages unless some are named; `variables` are of its process."""
        if stages:
            changes["stages"] = tuple(stages)
        return self.crew.start(name, msgspec.structs.replace(self.config, **changes), variables)

    async def create_run(self, name: str, manifest: Manifest) -> RunView:
        """Make a run."""
        ledger = await PostgresLedger.open(self.config.dsns["mia_admit"], size=1)
        try:
            await PostgresRuns(ledger.pool).create(name, manifest)
            view, _ = await ledger.run_named(name)
            return view
        finally:
            await ledger.close()

    async def ask(self, run: RunView, questions: Sequence[Asked]) -> None:
        """Seal the questions' labels, then publish the questions until each is acknowledged."""
        await self._seal(run, questions)
        records = [(str(asked.row).encode(), asked.record(run.name)) for asked in questions]
        await send(self.config.kafka, self.topic(topics.QUESTION), records)

    async def _seal(self, run: RunView, questions: Sequence[Asked]) -> None:
        pool = await patiently(lambda: open_pool(self.config.dsns["mia_admit"], size=1))
        labels = PostgresLabels(pool)
        for asked in questions:
            question = ids.question_id(run.id, SOURCE, str(asked.row))
            await labels.seal(run.run_no, question, asked.label, source="trial")
        await pool.close()

    async def until_accepted(self, run: RunView, count: int, *, limit_s: float = 300.0) -> float:
        """Wait until so many questions are in the ledger; the seconds it took."""

        async def accepted() -> bool:
            query = "SELECT accepted FROM run WHERE run_no = $1"
            return bool(await self.desk.value(query, run.run_no) >= count)

        return await until(f"{count} questions are accepted", accepted, limit_s=limit_s)

    async def close_run(self, run: RunView) -> None:
        """Admit nothing more, however often the database is away meanwhile."""

        async def close() -> None:
            pool = await open_pool(self.config.dsns["mia_admit"], size=1)
            try:
                await PostgresRuns(pool).close(run.name)
            except NoTransition:
                return  # it was closed, and the answer was lost
            finally:
                pool.terminate()

        await patiently(close)

    async def until_ended(self, run: RunView, *, limit_s: float = _ENDED_S) -> float:
        """Wait until a closing run has ended; the seconds it took."""

        async def ended() -> bool:
            query = "SELECT state FROM run WHERE run_no = $1"
            return bool(await self.desk.value(query, run.run_no) == "ended")

        return await until(f"run {run.name} ends", ended, limit_s=limit_s)

    async def audited(self, run: RunView) -> Report:
        """Audit a run against ledger and topics."""
        return await audit(
            self.audit_dsn, self.config.kafka, run.name, closed=True, prefix=self.config.prefix
        )


@asynccontextmanager
async def cluster(
    stack: Stack, folder: Path, *, model_options: Sequence[str] = (), **changes: object
) -> AsyncIterator[Cluster]:
    """Build a cluster on a stack, its files in `folder`; `changes` are of the workers' settings.

    Its database is dropped at the end; its topics stay with the stack.
    """
    name = f"chaos_{secrets.token_hex(6)}"
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    async with AsyncExitStack() as parts:
        dsns = await _prepared(stack.admin_dsn, name)
        drop = f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"
        parts.push_async_callback(execute, stack.admin_dsn, drop)
        model = await parts.enter_async_context(scripted_model(model_options))
        audit_dsn = dsns.pop("mia_audit")
        config = WorkerConfig(
            kafka={"bootstrap_servers": stack.bootstrap_servers},
            dsns=dsns,
            endpoints=_endpoints(model.base_url),
            artifacts=str(folder / "artifacts"),
            prefix=f"{name}.",
            **{**_SETTINGS, **changes},
        )
        crew = await parts.enter_async_context(Crew(folder / "workers"))
        yield Cluster(stack, model, crew, config, audit_dsn)


#: Short leases and sessions, so that what died is taken over soon; small pools, since all of a
#: cluster's workers share one Postgres.
_SETTINGS: Mapping[str, Any] = {
    "session_timeout_s": 6.0,
    "lease_s": 5.0,
    "slots": 32,
    "drain_s": 10.0,
    "pool_size": 2,
}


def _endpoints(base_url: str) -> dict[str, Endpoint]:
    served = Endpoint(base_url=base_url, timeout_s=900.0, concurrency=256)
    return dict.fromkeys(MODEL_ROLES, served)


async def _prepared(admin_dsn: str, name: str) -> dict[str, str]:
    """Make a database with every migration applied; its DSN by role."""
    await execute(admin_dsn, f"CREATE DATABASE {name}")
    dsn = urlsplit(admin_dsn)._replace(path=f"/{name}").geturl()
    # Roles belong to the whole server: clusters on one stack must agree on their passwords.
    passwords = {role: sha256(f"{admin_dsn}|{role}".encode()).hexdigest() for role in ROLES}
    connection = await asyncpg.connect(dsn)
    try:
        await ensure_roles(connection, passwords)
        await migrate(connection)
    finally:
        await connection.close()
    return {role: role_dsn(dsn, role, passwords[role]) for role in ROLES}
