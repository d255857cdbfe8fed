"""What somebody is waiting for goes before what nobody waits for."""

import msgspec

from mia_events.steps import Manifest
from tests.contract.workbench import Workbench, new_question

_PLAN = ("mia.plan",)


async def _ask(workbench: Workbench, run_no: int, *rows: str) -> list[str]:
    """Accept urgent questions; the rows that were opened at once."""
    run = await workbench.ledger.run(run_no)
    asked = [msgspec.structs.replace(new_question(run.id, row), urgent=True) for row in rows]
    accepted = await workbench.ledger.accept(run_no, asked)
    opened = {event.stream for event in accepted.emitted if event.type == "question.opened"}
    return [row for row in rows if new_question(run.id, row).id in opened]


async def test_an_urgent_question_is_opened_beyond_the_bound(workbench: Workbench) -> None:
    """An eighth of the bound, at least one, is kept for what somebody is waiting for."""
    run = await workbench.run(Manifest(max_in_flight=2), questions=5)
    assert ["x"] == await _ask(workbench, run, "x")
    assert [] == await _ask(workbench, run, "y")


async def test_the_next_free_place_is_the_urgent_ones(workbench: Workbench) -> None:
    """Position orders equals only."""
    run = await workbench.run(Manifest(max_in_flight=1), questions=3)
    await _ask(workbench, run, "x", "y")
    await workbench.through(await workbench.question(run, "x"))
    assert "opening" == (await workbench.stand(await workbench.question(run, "y"))).status
    assert await workbench.ended(run, await workbench.question(run, "1"))  # it has no row yet


async def test_only_what_could_be_claimed_is_urgent(workbench: Workbench) -> None:
    """Found with its topic until somebody holds it; questions that can wait never are."""
    run = await workbench.run(questions=2)
    await _ask(workbench, run, "x")
    stream = await workbench.question(run, "x")
    found = await workbench.ledger.urgent(_PLAN, limit=1_000)
    assert [(2, "mia.plan")] == [(one.version, one.topic) for one in found if one.stream == stream]
    assert not {await workbench.question(run, row) for row in "01"} & {one.stream for one in found}
    assert [] == await workbench.ledger.urgent(("mia.judge",), limit=1_000)
    await workbench.claimed(stream)
    assert stream not in {one.stream for one in await workbench.ledger.urgent(_PLAN, limit=1_000)}


async def test_an_urgent_questions_rollouts_are_urgent_too(workbench: Workbench) -> None:
    """The whole way, not the first step alone."""
    run = await workbench.run(Manifest(rollouts=2))
    await _ask(workbench, run, "x")
    rollouts = await workbench.fan_out(await workbench.question(run, "x"), 2)
    found = {one.stream for one in await workbench.ledger.urgent(_PLAN, limit=1_000)}
    assert set(rollouts) <= found
