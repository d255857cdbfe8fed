"""What an attempt asks for at once: what came is kept, and only what failed is asked for again."""

import asyncio
from typing import Any

import pytest

from consumers.runner.attempt import Attempts
from consumers.runner.drive import Drive
from mia_events.effects import Call, Message, ModelReply, Together
from mia_events.lifecycle import Kind
from mia_events.steps import Late, Plan, Poison, Step, Task, Transient
from schemas.events import RolloutPlanned
from storage.ports import EffectRow, PendingCommit
from tests.support.drive import task
from tests.support.histories import chosen

_NAMES = ("quick", "bad", "slow")


def _handler(_: Task) -> Plan:
    yield Together(
        tuple(
            Call(role=name, model="m", messages=(Message("user", "?"),), max_tokens=9)
            for name in _NAMES
        )
    )
    return Step(event=RolloutPlanned(plan="done"))


class _Fake:
    """A ledger that records effects, and models of which one fails until it is well."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.rows: list[EffectRow] = []
        self.asked: list[str] = []
        self.ended: list[str] = []

    async def submit(self, unit: PendingCommit) -> str:
        self.rows += unit.effects
        return "committed"

    async def perform(self, call: Call, _: Task) -> ModelReply:
        self.asked.append(call.role)
        await asyncio.sleep(0.1 if call.role == "slow" else 0)
        if call.role == "bad" and self.error is not None:
            raise self.error
        self.ended.append(call.role)
        return ModelReply(text=call.role, finish_reason="stop")


async def _attempt(fake: Any) -> Step:
    attempts = Attempts(
        ledger=fake, committer=fake, context=fake, performer=fake, stages={},
        next_claim=lambda *_: None, dead_letter_step=fake, emit=lambda _: None,
    )  # fmt: skip
    todo = task(Kind.ROLLOUT, chosen())
    drive = Drive(_handler, todo, fake.rows)
    try:
        return await attempts._finish(drive, todo)
    finally:
        drive.close()


@pytest.mark.parametrize("error", [Late("not now", 0.1), Transient("broken")])
async def test_one_that_is_to_be_tried_again_costs_no_other_its_reply(error: Exception) -> None:
    """The slow one comes to its end, and is not asked again."""
    fake = _Fake(error)
    with pytest.raises(type(error)):
        await _attempt(fake)
    assert {"quick", "slow"} == set(fake.ended)
    fake.error = None
    assert isinstance((await _attempt(fake)).event, RolloutPlanned)
    assert [1, 2, 1] == [fake.asked.count(name) for name in _NAMES]


async def test_one_that_can_never_succeed_ends_the_others() -> None:
    """Nobody waits for what will not be used."""
    fake = _Fake(Poison("never"))
    with pytest.raises(Poison):
        await _attempt(fake)
    await asyncio.sleep(0.2)
    assert "slow" not in fake.ended
