"""Retrieval from 100,000 memories: how long it takes, and how much of the exact answer it finds.

The vectors are random around 2,000 centres and the words follow Zipf's law: made up, so that
everyone can repeat it. Structureless vectors would be harder than real ones, these are easier than
some; see docs/memory.md.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import asyncpg
import msgspec

from mia_events.effects import Recall
from ops.bench.measure import percentile
from ops.bench.memories import Made, make
from ops.embedded.stack import EmbeddedStack, Endpoints
from ops.evidence.record import Claim, Evidence
from ops.settings import EmbeddedSettings
from storage.postgres.memory import PostgresMemory
from storage.postgres.migrate import migrate
from storage.postgres.pool import open_pool
from storage.postgres.roles import ROLES, ensure_roles

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mia_events.effects import Memories

TITLE: Final = "retrieval at 100,000 memories, against exact search, with and without filters"
#: The last honest run on a quiet machine.
BASELINE: Final = Path(__file__).parent / "memory_baseline.json"

_SETTINGS: Final = EmbeddedSettings(postgres_shared_buffers_mb=1024, postgres_wal_mb=1024)
_K: Final = 5


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """A way to ask: in which scope, and with what fields of `Recall`."""

    name: str
    scope: str
    least_recall: float
    most_p95_ms: float
    words: bool = True
    fields: dict[str, Any] = {}


_CASES: Final = (
    Case(name="vector", scope="large", words=False, least_recall=0.95, most_p95_ms=30),
    Case(name="hybrid", scope="large", least_recall=0.95, most_p95_ms=100),
    Case(
        name="hybrid, 1 % by trust (exact)",
        scope="large",
        least_recall=1,
        most_p95_ms=150,
        fields={"trust": ("imported",)},
    ),
    Case(
        name="hybrid, as of an old generation",
        scope="large",
        least_recall=0.9,
        most_p95_ms=150,
        fields={"generation": 10},
    ),
    Case(name="hybrid, a scope of 15 %", scope="middle", least_recall=0.95, most_p95_ms=150),
    Case(name="hybrid, a scope of 5 % (exact)", scope="small", least_recall=1, most_p95_ms=150),
)


async def evidence(*, short: bool = False) -> Evidence:
    """Fill a database of its own and ask; `short` takes a tenth of everything."""
    count, asked = (10_000, 30) if short else (100_000, 60)
    figures: dict[str, Any] = {"memories": count, "k": _K}
    claims: list[Claim] = []
    async with _database() as dsn:
        made = make(count, asked)
        started = time.perf_counter()
        await _fill(dsn, made, figures)
        figures["filled_s"] = round(time.perf_counter() - started, 1)
        pool = await open_pool(dsn, size=4)
        try:
            store = PostgresMemory(pool, exact_up_to=count // 10)
            for case in _CASES:
                figures[case.name] = found = await _measure(store, case, made)
                claims += _judge(case, found, timed=not short)
        finally:
            await pool.close()
    return Evidence(figures=figures, claims=tuple(claims))


def _judge(case: Case, found: dict[str, Any], *, timed: bool) -> list[Claim]:
    """Recall always; times are for the whole size on a quiet machine."""
    recall, p95 = found["recall"], found["ms"]["p95"]
    claims = [
        Claim(
            f"{case.name}: recall@{_K} {recall:.3f}, at least {case.least_recall:g}",
            recall >= case.least_recall,
        )
    ]
    if timed:
        says = f"{case.name}: p95 {p95:g} ms, at most {case.most_p95_ms:g} ms"
        claims.append(Claim(says, p95 <= case.most_p95_ms))
    return claims


async def _measure(store: PostgresMemory, case: Case, made: Made) -> dict[str, Any]:
    shares, times, exact_times = [], [], []
    for vector, text in made.questions[case.scope]:
        wanted = Recall(
            scope=case.scope,
            vector=vector,
            text=text if case.words else "",
            successes=_K,
            failures=_K,
            **{"generation": None, **case.fields},
        )
        found, seconds = await _timed(store, wanted)
        times.append(seconds)
        truth, seconds = await _timed(store, msgspec.structs.replace(wanted, exact=True))
        exact_times.append(seconds)
        if truth.items:
            shares.append(_share(found, truth))
    return {
        "recall": round(sum(shares) / max(1, len(shares)), 4),
        "ms": _milliseconds(times[5:]),
        "exact_ms": _milliseconds(exact_times[5:]),
        "asked": len(times),
        "with_an_answer": len(shares),
    }


def _share(found: Memories, truth: Memories) -> float:
    """How many of the exact answer's memories were found."""
    return len({m.id for m in found.items} & {m.id for m in truth.items}) / len(truth.items)


async def _timed(store: PostgresMemory, wanted: Recall) -> tuple[Memories, float]:
    started = time.perf_counter()
    found = await store.recall(wanted)
    return found, time.perf_counter() - started


def _milliseconds(seconds: list[float]) -> dict[str, float]:
    return {
        "p50": round(percentile(seconds, 0.5) * 1e3, 2),
        "p95": round(percentile(seconds, 0.95) * 1e3, 2),
    }


async def _fill(dsn: str, made: Made, figures: dict[str, Any]) -> None:
    """Load everything, then build the two large indexes at once, as a restore would."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("DROP INDEX memory_embedding; DROP INDEX memory_words")
        await connection.copy_to_table(
            "memory", source=made.rows(), columns=list(made.columns), format="csv"
        )
        await connection.executemany(
            "INSERT INTO memory_credit VALUES ($1, $2, 1, $3)", made.credits
        )
        await connection.executemany(
            "INSERT INTO memory_scope (scope, generation, held) VALUES ($1, $2, $3)", made.scopes
        )
        started = time.perf_counter()
        await connection.execute("SET maintenance_work_mem = '512MB'")
        await connection.execute(
            "CREATE INDEX memory_embedding ON memory USING hnsw (embedding halfvec_cosine_ops)"
        )
        figures["vector_index_s"] = round(time.perf_counter() - started, 1)
        await connection.execute("CREATE INDEX memory_words ON memory USING gin (words)")
        await connection.execute("VACUUM ANALYZE memory")
        await connection.execute("VACUUM ANALYZE memory_credit")
        for name in ("memory", "memory_embedding", "memory_words"):
            size = await connection.fetchval("SELECT pg_relation_size($1::regclass)", name)
            figures[f"{name}_mb"] = round(size / 2**20)
    finally:
        await connection.close()


@asynccontextmanager
async def _database() -> AsyncIterator[str]:
    """A Postgres of its own in a temporary folder, migrated; removed afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="mia-bench-"))
    no_kafka = Endpoints(bootstrap_servers="127.0.0.1:1")
    try:
        async with EmbeddedStack(folder, _SETTINGS, external=no_kafka) as stack:
            admin = await asyncpg.connect(stack.admin_dsn)
            try:
                await ensure_roles(admin, dict.fromkeys(ROLES, "bench"))
                await migrate(admin)
            finally:
                await admin.close()
            yield stack.admin_dsn
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


__all__ = ["BASELINE", "TITLE", "evidence"]
