"""Memories from a file, on Postgres: traceable, once, and the same when they are written again."""

import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from mia_events.effects import Recall
from mia_events.steps import Manifest, ModelChoice, RunView
from ops.audit.auditor import check_book
from ops.audit.book import Book
from ops.audit.findings import Findings
from ops.cli.memory import _kept
from ops.embedded.state import free_port
from ops.memory_import import import_file
from ops.settings import ModelSettings, ModelsSettings, Settings
from producers.memory_file import read_memories, write_memories
from schemas.envelope import decode_payload
from schemas.events import MemoryCandidate, MemoryImported
from storage.postgres.audit import AuditReader
from storage.postgres.ledger import PostgresLedger
from storage.postgres.memory import DIMENSIONS, PostgresMemory
from storage.postgres.memory_import import NotNow, import_part
from storage.postgres.memory_views import MemoryViews
from storage.postgres.runs import PostgresRuns
from tests.contract.workbench import candidate
from tests.support.scripted_model import spawn

_AXIS = (1.0, *(0.0,) * (DIMENSIONS - 1))


@pytest.fixture
async def ledger(prepared: str) -> AsyncIterator[PostgresLedger]:
    """Give the ledger, whose pool the memories share."""
    ledger = await PostgresLedger.open(prepared, size=2)
    yield ledger
    await ledger.close()


async def _run(ledger: PostgresLedger, **fields: Any) -> RunView:
    number = await PostgresRuns(ledger.pool).create(f"import-{uuid4().hex}", Manifest(**fields))
    return await ledger.run(number)


def _part(run: RunView, *memories: MemoryCandidate, number: int = 0) -> MemoryImported:
    return MemoryImported(
        scope=run.scope, source="memory.jsonl", sha256="ab" * 32, part=number, memories=memories
    )


def _imported(key: str, text: str, **fields: Any) -> MemoryCandidate:
    return msgspec.structs.replace(candidate(key, text), trust="imported", **fields)


async def test_every_imported_memory_names_the_event_that_brought_it(
    ledger: PostgresLedger,
) -> None:
    """And the event holds it whole."""
    run = await _run(ledger)
    part = _part(run, _imported("a", "one", uses=3, wins=1))
    assert await import_part(ledger.pool, run, part)
    (listed,) = await MemoryViews(ledger.pool).listed(run.scope)
    assert (1, "imported", 3, 1) == (listed.from_gen, listed.trust, listed.uses, listed.wins)
    story = await MemoryViews(ledger.pool).story(listed.id)
    (cause,) = story["versions"][0]["causes"]
    row = await ledger.pool.fetchrow(
        "SELECT type, seq, body FROM event WHERE run_no = $1 AND id = $2", run.run_no, cause
    )
    assert row is not None
    assert ("memory.imported", 1) == (row["type"], row["seq"])
    assert part == decode_payload(row["body"])


async def test_the_same_part_again_changes_nothing(ledger: PostgresLedger) -> None:
    """Neither a generation nor a counter."""
    run = await _run(ledger)
    part = _part(run, _imported("a", "one two"))
    assert await import_part(ledger.pool, run, part)
    before = await MemoryViews(ledger.pool).stats(run.scope)
    assert not await import_part(ledger.pool, run, part)
    assert before == await MemoryViews(ledger.pool).stats(run.scope)


async def test_a_run_with_batches_has_imports_from_its_first_batch_on(
    ledger: PostgresLedger,
) -> None:
    """They are generation 0, which the first batch reads; later there is none."""
    run = await _run(ledger, mode="batch", batch_size=2)
    assert await import_part(ledger.pool, run, _part(run, _imported("a", "one")))
    assert await import_part(ledger.pool, run, _part(run, _imported("b", "two"), number=1))
    recall = Recall(scope=run.scope, vector=_AXIS, generation=0)
    found = (await PostgresMemory(ledger.pool).recall(recall)).items
    assert {"one", "two"} == {one.text for one in found}
    await ledger.pool.execute("UPDATE run SET accepted = 1 WHERE run_no = $1", run.run_no)
    with pytest.raises(NotNow, match="before its first question"):
        await import_part(ledger.pool, run, _part(run, _imported("c", "three"), number=2))


async def test_a_run_that_is_over_takes_no_import(ledger: PostgresLedger) -> None:
    """The message names it."""
    run = await _run(ledger)
    await ledger.pool.execute("UPDATE run SET state = 'ended' WHERE run_no = $1", run.run_no)
    with pytest.raises(NotNow, match=run.name):
        await import_part(ledger.pool, run, _part(run, _imported("a", "one")))


async def test_exported_memories_come_back_the_same(ledger: PostgresLedger, tmp_path: Path) -> None:
    """File, scope, file, scope: nothing of a memory is lost on the way."""
    first, second = await _run(ledger), await _run(ledger)
    memories = (
        _imported("a", "one", category="time", data_id="7", uses=4, wins=2, plan="p"),
        _imported("b", "two", outcome="failure", caption="a car"),
    )
    await import_part(ledger.pool, first, _part(first, *memories))
    views = MemoryViews(ledger.pool)

    async def file_of(run: RunView) -> bytes:
        listed = await views.listed(run.scope, vectors=True)
        return write_memories(map(_kept, sorted(listed, key=lambda one: one.text)))

    data = await file_of(first)
    back = [
        one
        for one in read_memories(data, dimensions=DIMENSIONS)
        if isinstance(one, MemoryCandidate)
    ]
    assert 2 == len(back)
    await import_part(ledger.pool, second, _part(second, *back))
    assert data == await file_of(second)


async def test_a_scope_is_listed_as_of_any_generation(ledger: PostgresLedger) -> None:
    """And summed up: versions, of which retired, of which evicted."""
    run = await _run(ledger, memory_cap=2)
    for number, (key, text) in enumerate((("a", "one two"), ("a", "one"), ("b", "b"), ("c", "c"))):
        await import_part(ledger.pool, run, _part(run, _imported(key, text), number=number))
    views = MemoryViews(ledger.pool)
    seen = [
        sorted(one.text for one in await views.listed(run.scope, as_of=generation))
        for generation in range(5)
    ]
    assert [[], ["one two"], ["one"], ["b", "one"], ["b", "c"]] == seen
    stats = await views.stats(run.scope)
    assert (2, 4, 2, 1, 4) == (
        stats.in_use, stats.versions, stats.retired, stats.evicted, stats.generation,
    )  # fmt: skip


async def _faults(dsn: str, run: RunView) -> list[str]:
    findings = Findings()
    async with AuditReader.connect(dsn) as reader:
        (row,) = [one for one in await reader.runs() if one.run_no == run.run_no]
        check_book(Book(await reader.history(row)), findings)
    return [fault.what for fault in findings.kept]


async def test_what_is_stored_is_what_the_events_make(
    ledger: PostgresLedger, prepared: str
) -> None:
    """Through versions, evictions and records; a changed text, a lost row and a row too many show.

    The auditor makes the memories again with other code than wrote them.
    """
    run = await _run(ledger, memory_cap=4)
    chance = random.Random(5)
    for number in range(12):
        many = {str(chance.randrange(8)): chance.randrange(1, 9) for _ in range(3)}
        new = [_imported(key, "w " * size, uses=size, wins=1) for key, size in many.items()]
        await import_part(ledger.pool, run, _part(run, *new, number=number))
    stats = await MemoryViews(ledger.pool).stats(run.scope)
    assert stats.evicted > 0
    assert stats.retired > stats.evicted
    assert [] == await _faults(prepared, run)
    for planted, told in (
        ("UPDATE memory SET text = 'else' WHERE scope = $1 AND until_gen IS NULL", "is not what"),
        ("DELETE FROM memory WHERE scope = $1 AND until_gen IS NOT NULL", "is lost"),
        ("DELETE FROM memory_write WHERE scope = $1 AND number = 12", "is no write of scope"),
    ):
        async with ledger.pool.acquire() as connection:
            await connection.execute(planted, run.scope)
        assert any(told in fault for fault in await _faults(prepared, run)), planted


async def test_a_memory_that_is_not_there_is_said_so(ledger: PostgresLedger) -> None:
    """By its id."""
    with pytest.raises(LookupError, match="no memory"):
        await MemoryViews(ledger.pool).story(UUID(int=0))


async def test_an_import_bound_for_another_dimension_never_half_happens(
    ledger: PostgresLedger,
) -> None:
    """Event and memories are one transaction."""
    run = await _run(ledger)
    with pytest.raises(asyncpg.DataError):
        await import_part(ledger.pool, run, _part(run, _imported("a", "one", vector=(1.0, 0.0))))
    count = await ledger.pool.fetchval(
        "SELECT count(*) FROM event WHERE run_no = $1 AND type = 'memory.imported'", run.run_no
    )
    assert 0 == count


async def test_a_file_is_imported_once_with_vectors_from_the_embedder(
    ledger: PostgresLedger, prepared: str, tmp_path: Path
) -> None:
    """A bad entry is reported by number, a repeated one left out, the same file changes nothing."""
    entry = {"workflow_summary": "1. Search.", "judgement": "correct"}
    entries = [{**entry, "question": f"Question {number}?"} for number in range(230)]
    entries += [{**entry, "question": "q", "judgement": "maybe"}, entries[0]]
    path = tmp_path / "memory.jsonl"
    path.write_bytes(msgspec.json.encode({"text-only": {"others": entries}}))
    run = await _run(ledger, roles={"embedder": ModelChoice(model="scripted")})
    with spawn(free_port(set())) as base_url:
        model = ModelSettings(base_url=base_url, model="scripted")
        settings = Settings(home=str(tmp_path), models=ModelsSettings(embedder=model))
        at: Any = SimpleNamespace(settings=settings, ledger=ledger)
        first, again = [await import_file(at, run, path) for _ in range(2)]
    assert (231, 230, 0, 1) == (first.good, first.written, first.known, first.repeated)
    assert [231] == [bad.number for bad in first.bad]
    assert (0, 230) == (again.written, again.known)
    stats = await MemoryViews(ledger.pool).stats(run.scope)
    assert (230, 2, 2) == (stats.in_use, stats.generation, stats.writes)
    assert [] == await _faults(prepared, run)
