"""Memories: versions by generation, credits, and what a recall returns."""

import asyncio
import math
import random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from mia_events import ids
from mia_events.effects import Recall, Remembered
from mia_events.steps import Manifest, MemoryWrite
from schemas import events as ev
from schemas.events import MemoryCandidate, MemoryUse
from storage.postgres.ledger import PostgresLedger
from storage.postgres.memory import PostgresMemory, write_memories
from storage.postgres.runs import PostgresRuns
from tests.contract.workbench import Workbench, candidate

_AXIS = (1.0, *(0.0,) * 383)
_ASKER = UUID(int=5)


@pytest.fixture
def scope() -> str:
    """Give a scope of this test's own."""
    return f"scope-{uuid4()}"


async def _write(
    workbench: Workbench,
    scope: str,
    *candidates: MemoryCandidate,
    generation: int | None = None,
    uses: tuple[tuple[UUID, MemoryUse], ...] = (),
    cap: int | None = None,
) -> None:
    """Write a generation as the only thing that a question's end does."""
    run = await workbench.run(Manifest(), questions=1)
    question = await workbench.question(run, "0")
    (rollout,) = await workbench.fan_out(question, 1)
    await workbench.plan(rollout)
    await workbench.choose(question, [rollout])
    await workbench.propose(rollout)
    await workbench.answer(question, [rollout])
    await workbench.judge(rollout)
    write = MemoryWrite(
        scope=scope,
        generation=generation,
        candidates=tuple((_ASKER, one) for one in candidates),
        uses=uses,
        cap=cap,
    )
    await workbench.step(question, ev.QuestionConsolidated(grade="correct"), memory=write)


async def _recall(
    workbench: Workbench, scope: str, generation: int | None, **wanted: Any
) -> list[Remembered]:
    request = Recall(scope=scope, vector=_AXIS, generation=generation, **wanted)
    return list((await workbench.memory.recall(request)).items)


def _texts(found: list[Remembered]) -> list[str]:
    return [item.text for item in found]


async def test_a_new_key_is_version_one(workbench: Workbench, scope: str) -> None:
    """It is there from its generation on, not before."""
    await _write(workbench, scope, candidate("k", "do a b"), generation=3)
    assert [] == await _recall(workbench, scope, 2)
    (found,) = await _recall(workbench, scope, 3)
    assert (ids.memory_id(scope, "k"), 1, "do a b", "about k", "success") == (
        found.id, found.version, found.text, found.question, found.outcome,
    )  # fmt: skip
    assert [found] == await _recall(workbench, scope, None)


async def test_a_shorter_text_is_a_new_version_and_a_longer_one_is_not(
    workbench: Workbench,
    scope: str,
) -> None:
    """Nothing is overwritten: each generation still sees its own version."""
    await _write(workbench, scope, candidate("k", "one two three"), generation=1)
    await _write(workbench, scope, candidate("k", "one two three four"), generation=2)
    await _write(workbench, scope, candidate("k", "one two"), generation=3)
    assert [(1, "one two three")] == [
        (m.version, m.text) for m in await _recall(workbench, scope, 2)
    ]
    assert [(2, "one two")] == [(m.version, m.text) for m in await _recall(workbench, scope, 3)]


async def test_several_writes_of_one_generation_leave_one_version(
    workbench: Workbench, scope: str
) -> None:
    """Only the shortest of a key is kept, as the next version."""
    await _write(workbench, scope, candidate("k", "a b c d e"), generation=1)
    same = [candidate("k", text) for text in ("a b c d", "a b c d e f", "a b c")]
    await _write(workbench, scope, *same, generation=2)
    assert [(2, "a b c")] == [(m.version, m.text) for m in await _recall(workbench, scope, 2)]


async def test_no_generation_means_the_next(workbench: Workbench, scope: str) -> None:
    """Live questions each write a generation of their own."""
    await _write(workbench, scope, candidate("a", "one"), generation=4)
    await _write(workbench, scope, candidate("b", "two"))
    assert ["one"] == _texts(await _recall(workbench, scope, 4))
    assert {"one", "two"} == set(_texts(await _recall(workbench, scope, 5)))


async def test_scopes_do_not_see_each_other(workbench: Workbench, scope: str) -> None:
    """The same key in another scope is another memory."""
    await _write(workbench, scope, candidate("k", "mine"), generation=1)
    assert [] == await _recall(workbench, "other", 1)


async def test_successes_come_first_and_each_outcome_has_its_count(
    workbench: Workbench, scope: str
) -> None:
    """Best first within an outcome, ties by key."""
    kinds = ("success", "failure", "success", "failure", "success", "failure")
    memories = [candidate(f"k{i}", f"t{i}", kind) for i, kind in enumerate(kinds)]
    memories.append(candidate("far", "far", angle=0.5))
    await _write(workbench, scope, *memories, generation=1)
    assert ["t0", "t2", "t1", "t3"] == _texts(await _recall(workbench, scope, 1))
    more = await _recall(workbench, scope, 1, successes=9, failures=0)
    assert ["t0", "t2", "t4", "far"] == _texts(more)


async def test_the_nearest_contrasts_are_returned_not_the_oldest(
    workbench: Workbench, scope: str
) -> None:
    """What router and planner are told is ranked by similarity, whenever it was learned."""
    angles = (0.3, 0.5, 0.9, 0.4, 0.8)
    for number, angle in enumerate(angles, 1):
        pair = [
            candidate(f"{outcome}{number}", f"{outcome} at {angle}", outcome, angle)
            for outcome in ("success", "failure")
        ]
        await _write(workbench, scope, *pair, generation=number)
    assert ["success at 0.9", "success at 0.8", "failure at 0.9", "failure at 0.8"] == _texts(
        await _recall(workbench, scope, len(angles))
    )


async def test_what_is_not_about_the_question_is_not_returned(
    workbench: Workbench, scope: str
) -> None:
    """A cosine below 0.2 is no neighbour."""
    near, far = candidate("near", "near", angle=0.25), candidate("far", "far", angle=0.15)
    await _write(workbench, scope, near, far, generation=1)
    assert ["near"] == _texts(await _recall(workbench, scope, 1))


async def test_the_score_weighs_similarity_and_win_rate(workbench: Workbench, scope: str) -> None:
    """0.7 cosine + 0.3 (wins + 1) / (uses + 1), credits up to the generation only."""
    await _write(workbench, scope, candidate("k", "t", angle=0.5), generation=1)
    used = ids.memory_id(scope, "k")
    uses = tuple(
        (question, MemoryUse(memory=used, won=won))
        for question, won in ((UUID(int=1), True), (UUID(int=2), False), (UUID(int=3), False))
    )
    await _write(workbench, scope, generation=2, uses=uses)
    (before,) = await _recall(workbench, scope, 1)
    (after,) = await _recall(workbench, scope, 2)
    assert pytest.approx(0.7 * 0.5 + 0.3 * 1.0, abs=1e-3) == before.score
    assert pytest.approx(0.7 * 0.5 + 0.3 * 2 / 4, abs=1e-3) == after.score


async def test_a_question_credits_a_memory_once(workbench: Workbench, scope: str) -> None:
    """The first credit of a (memory, question) stands."""
    await _write(workbench, scope, candidate("k", "t"), generation=1)
    use = MemoryUse(memory=ids.memory_id(scope, "k"), won=False)
    asker = uuid4()
    await _write(workbench, scope, generation=2, uses=((asker, use),))
    again = MemoryUse(memory=use.memory, won=True)
    await _write(workbench, scope, generation=2, uses=((asker, again),))
    (found,) = await _recall(workbench, scope, 2)
    assert pytest.approx(0.7 + 0.3 / 2, abs=1e-3) == found.score


async def test_a_better_record_outranks_a_nearer_text(workbench: Workbench, scope: str) -> None:
    """The win rate decides between neighbours."""
    near, proven = candidate("near", "near", angle=1.0), candidate("proven", "proven", angle=0.95)
    await _write(workbench, scope, near, proven, generation=1)
    lost = MemoryUse(memory=ids.memory_id(scope, "near"), won=False)
    await _write(workbench, scope, generation=2, uses=((uuid4(), lost),))
    assert ["near", "proven"] == _texts(await _recall(workbench, scope, 1))
    assert ["proven", "near"] == _texts(await _recall(workbench, scope, 2))


async def test_words_count_a_fifth_of_the_similarity(workbench: Workbench, scope: str) -> None:
    """0.8 cosine + 0.2 of the question's words that the memory has; common words do not count."""
    await _write(workbench, scope, candidate("rhine", "Search the Rhine.", angle=0.5), generation=1)
    (by_vector,) = await _recall(workbench, scope, 1)
    (by_both,) = await _recall(workbench, scope, 1, text="What is the RHINE, the Elbe?")
    assert pytest.approx(0.7 * 0.5 + 0.3, abs=1e-3) == by_vector.score
    assert pytest.approx(0.7 * (0.8 * 0.5 + 0.2 * 1 / 2) + 0.3, abs=1e-3) == by_both.score


async def test_words_reorder_neighbours(workbench: Workbench, scope: str) -> None:
    """What shares the question's names comes before what is a little nearer."""
    near = candidate("near", "Look for a river.", angle=0.9)
    named = candidate("named", "Look for the Elbe.", angle=0.85)
    await _write(workbench, scope, near, named, generation=1)
    assert "near" == (await _recall(workbench, scope, 1))[0].question.removeprefix("about ")
    found = await _recall(workbench, scope, 1, text="Elbe or Weser?")
    assert ["Look for the Elbe.", "Look for a river."] == _texts(found)


async def test_the_frequency_term_prefers_what_was_used_seldom(
    workbench: Workbench, scope: str
) -> None:
    """The paper's term adds its weight / (uses + 1)."""
    await _write(workbench, scope, candidate("k", "t", angle=0.5), generation=1)
    use = MemoryUse(memory=ids.memory_id(scope, "k"), won=True)
    await _write(workbench, scope, generation=2, uses=((uuid4(), use),))
    for generation, uses in ((1, 0), (2, 1)):
        (found,) = await _recall(workbench, scope, generation, frequency=0.3)
        expected = 0.7 * 0.5 + 0.3 + 0.3 / (uses + 1)
        assert pytest.approx(expected, abs=1e-3) == found.score


async def test_only_memories_of_a_trust_are_returned(workbench: Workbench, scope: str) -> None:
    """Imported memories can be left out."""
    imported = msgspec.structs.replace(candidate("i", "imported"), trust="imported")
    await _write(workbench, scope, candidate("d", "distilled"), imported, generation=1)
    assert ["distilled", "imported"] == _texts(await _recall(workbench, scope, 1))
    assert ["distilled"] == _texts(await _recall(workbench, scope, 1, trust=("distilled",)))
    assert ["imported"] == _texts(await _recall(workbench, scope, None, trust=("imported",)))


async def test_a_record_that_was_brought_stays_with_the_memory(
    workbench: Workbench, scope: str
) -> None:
    """A shorter text is a new version with the same record; a later record is not added."""
    brought = msgspec.structs.replace(candidate("k", "one two", angle=0.5), uses=3, wins=1)
    again = msgspec.structs.replace(candidate("k", "one", angle=0.5), uses=9, wins=9)
    await _write(workbench, scope, brought, generation=1)
    await _write(workbench, scope, again, generation=2)
    for generation in (1, 2):
        (found,) = await _recall(workbench, scope, generation)
        assert generation == found.version
        assert pytest.approx(0.7 * 0.5 + 0.3 * 2 / 4, abs=1e-3) == found.score


async def test_above_the_cap_the_weakest_retire(workbench: Workbench, scope: str) -> None:
    """Who lost leaves first, then the older; a tenth of the cap becomes free, `as of` stays."""
    first = [candidate(f"k{n}", f"t{n}") for n in range(10)]
    await _write(workbench, scope, *first, generation=1, cap=10)
    lost = MemoryUse(memory=ids.memory_id(scope, "k7"), won=False)
    won = MemoryUse(memory=ids.memory_id(scope, "k0"), won=True)
    uses = ((uuid4(), lost), (uuid4(), won))
    await _write(workbench, scope, candidate("new", "new"), generation=2, uses=uses, cap=10)
    everything = {"successes": 99}
    assert {f"t{n}" for n in range(10)} == set(
        _texts(await _recall(workbench, scope, 1, **everything))
    )
    left = {*(f"t{n}" for n in (0, 2, 3, 4, 5, 6, 8, 9)), "new"}
    assert left == set(_texts(await _recall(workbench, scope, 2, **everything)))


async def test_what_has_just_been_written_is_never_evicted(
    workbench: Workbench, scope: str
) -> None:
    """A generation larger than the cap stays whole until the next one."""
    await _write(workbench, scope, candidate("a", "a"), generation=1, cap=2)
    many = [candidate(key, key) for key in "bcde"]
    await _write(workbench, scope, *many, generation=2, cap=2)
    assert ["b", "c", "d", "e"] == _texts(await _recall(workbench, scope, 2, successes=99))


async def test_an_evicted_memory_can_be_learned_again(workbench: Workbench, scope: str) -> None:
    """It is the next version, and what it said before can still be read."""
    await _write(workbench, scope, candidate("a", "one"), generation=1, cap=1)
    await _write(workbench, scope, candidate("b", "two"), generation=2, cap=1)
    await _write(workbench, scope, candidate("a", "one, but longer"), generation=3, cap=1)
    seen = {
        generation: [(m.version, m.text) for m in await _recall(workbench, scope, generation)]
        for generation in (1, 2, 3)
    }
    assert {1: [(1, "one")], 2: [(1, "two")], 3: [(2, "one, but longer")]} == seen


async def test_a_generation_that_is_written_twice_overwrites_nothing(
    workbench: Workbench, scope: str
) -> None:
    """What it has under a key stays; new keys join it."""
    await _write(workbench, scope, candidate("a", "one two"), generation=0)
    more = (candidate("a", "one"), candidate("b", "three"))
    await _write(workbench, scope, *more, generation=0)
    assert ["one two", "three"] == _texts(await _recall(workbench, scope, 0))


async def test_a_thousand_identical_writes_at_once_leave_one_row(prepared: str, scope: str) -> None:
    """No deadlock, no second row, and every write has its number and generation."""
    pool = await asyncpg.create_pool(prepared, min_size=16, max_size=16)
    write = MemoryWrite(
        scope=scope,
        generation=None,
        candidates=((_ASKER, candidate("k", "the same")),),
        uses=(),
        cap=100,
    )

    async def one() -> None:
        async with pool.acquire() as connection, connection.transaction():
            await write_memories(connection, write, run_no=1, cause=uuid4())

    try:
        async with asyncio.timeout(120):
            await asyncio.gather(*(one() for _ in range(1000)))
        rows = await pool.fetch("SELECT version, until_gen FROM memory WHERE scope = $1", scope)
        told = await pool.fetchrow(
            "SELECT generation, held, writes FROM memory_scope WHERE scope = $1", scope
        )
        numbers = await pool.fetchval(
            "SELECT array_agg(number ORDER BY number) FROM memory_write WHERE scope = $1", scope
        )
    finally:
        await pool.close()
    assert [(1, None)] == [tuple(row) for row in rows]
    assert (1000, 1, 1000) == tuple(told or ())
    assert list(range(1, 1001)) == numbers


async def test_writes_of_overlapping_keys_at_once_neither_deadlock_nor_lose(
    prepared: str, scope: str
) -> None:
    """Whatever the order of the keys: as many versions in use as there are keys."""
    pool = await asyncpg.create_pool(prepared, min_size=8, max_size=8)

    async def one(number: int) -> None:
        keys = [f"k{(number + step) % 20}" for step in range(10)]
        new = [(_ASKER, candidate(key, "w " * (200 - number))) for key in keys]
        write = MemoryWrite(scope=scope, generation=None, candidates=tuple(new), uses=())
        async with pool.acquire() as connection, connection.transaction():
            await write_memories(connection, write, run_no=1, cause=uuid4())

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(one(number) for number in range(200)))
        in_use = await pool.fetchval(
            "SELECT count(*) FROM memory WHERE scope = $1 AND until_gen IS NULL", scope
        )
        told = await pool.fetchval("SELECT held FROM memory_scope WHERE scope = $1", scope)
        broken = await pool.fetchval(
            "SELECT count(*) FROM memory AS m JOIN memory AS n "
            "ON n.id = m.id AND n.version = m.version + 1 "
            "WHERE m.scope = $1 AND m.until_gen IS DISTINCT FROM n.from_gen",
            scope,
        )
    finally:
        await pool.close()
    assert (20, 20, 0) == (in_use, told, broken)


def _near_the_axis(chance: random.Random) -> tuple[float, ...]:
    """A unit vector of cosine 0.4 to 1 with the axis, in any direction otherwise."""
    side = [chance.gauss(0, 1) for _ in range(383)]
    length = math.hypot(*side)
    cosine = chance.uniform(0.4, 1)
    return (cosine, *(value / length * math.sqrt(1 - cosine * cosine) for value in side))


@pytest.mark.parametrize("text", ["", "the Rhine or memory 77?"])
async def test_the_indexes_find_what_exact_search_finds(
    prepared: str, scope: str, text: str
) -> None:
    """In a scope that is a small part of the table too, and through filters."""
    pool = await asyncpg.create_pool(prepared, min_size=1, max_size=2)
    chance = random.Random(3)
    for of, size in ((scope, 300), (f"{scope}-other", 3000)):
        new = [
            msgspec.structs.replace(
                candidate(f"{n}", f"memory {n}", chance.choice(("success", "failure"))),
                vector=_near_the_axis(chance),
            )
            for n in range(size)
        ]
        write = MemoryWrite(
            scope=of, generation=None, candidates=tuple((_ASKER, one) for one in new), uses=()
        )
        async with pool.acquire() as connection, connection.transaction():
            await write_memories(connection, write, run_no=1, cause=uuid4())
    request = Recall(
        scope=scope, vector=_AXIS, generation=1, successes=10, failures=10, text=text
    )  # fmt: skip
    try:
        indexed = await PostgresMemory(pool, exact_up_to=0).recall(request)
        exact = await PostgresMemory(pool, exact_up_to=0).recall(
            msgspec.structs.replace(request, exact=True)
        )
    finally:
        await pool.close()
    assert 20 == len(exact.items)
    shared = {one.id for one in exact.items} & {one.id for one in indexed.items}
    assert 19 <= len(shared)


async def test_tenants_never_share_memories(workbench: Workbench, prepared: str) -> None:
    """Runs of one tenant that name the same scope share it; another tenant's do not."""
    ledger = await PostgresLedger.open(prepared, size=1)
    runs, name = PostgresRuns(ledger.pool), uuid4().hex
    scopes = []
    try:
        for tenant, shared in (
            ("a", name),
            ("a", name),
            ("b", name),
            ("b", None),
            ("b", f"a/{name}"),
        ):
            number = await runs.create(uuid4().hex, Manifest(), tenant=tenant, scope=shared)
            scopes.append((await ledger.run(number)).scope)
        with pytest.raises(ValueError, match="no tenant"):
            await runs.create(uuid4().hex, Manifest(), tenant="a/b", scope="c")
    finally:
        await ledger.close()
    assert scopes[0] == scopes[1]
    assert 4 == len(set(scopes))
    await _write(workbench, scopes[0], candidate("k", "a's"), generation=1)
    assert [[], [], []] == [await _recall(workbench, scope, None) for scope in scopes[2:]]
