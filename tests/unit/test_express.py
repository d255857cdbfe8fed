"""A crowded dispatcher starts what somebody is waiting for, in slots kept for that."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import cast
from uuid import UUID

import pytest

from consumers.runner import express
from consumers.runner.attempt import Attempts
from consumers.runner.context import Context, Lost
from consumers.runner.dispatch import Claims, Dispatcher
from consumers.runner.express import Express
from consumers.runner.intake import Intake, Offer
from mia_events.lifecycle import Kind
from mia_events.policies.retry import RetryPolicy
from mia_events.steps import Poison
from storage.ports import Claimed, Ledger, Pending, Want

_TOPIC = "mia.plan"


def _offer(number: int) -> Offer:
    return Offer(UUID(int=number), 2, _TOPIC, 0, number, 1)


class _Ledger:
    """Grants every claim once; `waiting` are the urgent commands."""

    def __init__(self) -> None:
        self.claimed: list[int] = []
        self.waiting: list[int] = []
        self.asked = 0

    async def claim(self, wants: Sequence[Want], *, lease_s: float) -> list[Claimed]:
        granted = [want for want in wants if want.stream.int not in self.claimed]
        self.claimed += [want.stream.int for want in granted]
        return [
            Claimed(
                stream=want.stream, version=2, claim=want.claim, kind=Kind.QUESTION, run_no=1,
                status="opening", topic=_TOPIC, event_id=want.stream, parent=None, attempt=1,
                failures=0, isolated_deaths=0, begun=False, history=(),
            )
            for want in granted
        ]  # fmt: skip

    async def urgent(self, topics: Sequence[str], *, limit: int) -> list[Pending]:
        self.asked += 1
        left = [number for number in self.waiting if number not in self.claimed]
        return [Pending(UUID(int=number), 2, _TOPIC) for number in left[:limit]]


class _Attempts:
    """Works until it is told to end."""

    def __init__(self) -> None:
        self.running: set[int] = set()
        self.poisoned: set[int] = set()
        self.buried: set[int] = set()
        self.end = asyncio.Event()

    async def run(self, claimed: Claimed) -> None:
        if claimed.stream.int in self.poisoned:
            raise Poison("this command can never be handled")
        self.running.add(claimed.stream.int)
        await self.end.wait()
        self.running.discard(claimed.stream.int)

    async def bury(self, claimed: Claimed, _: Exception) -> None:
        self.buried.add(claimed.stream.int)
        raise Lost("its stream went on elsewhere")


class _Intake:
    """Counts what needs nothing more."""

    def done(self, offer: Offer) -> None:
        return


class Bench:
    """A dispatcher of eight slots (and one kept), and what it looks at."""

    def __init__(self) -> None:
        self.ledger, self.attempts = _Ledger(), _Attempts()
        ledger = cast("Ledger", self.ledger)
        self.dispatcher = Dispatcher(
            ledger=ledger,
            context=Context(ledger),
            attempts=cast("Attempts", self.attempts),
            claims=Claims(1),
            retries=RetryPolicy(),
            isolation=None,
            slots=8,
            lease_s=30,
            intakes=cast("dict[str, Intake]", {_TOPIC: _Intake()}),
        )
        self.express = Express(ledger, self.dispatcher, (_TOPIC,))


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """Give a dispatcher and its express, at work and quick."""
    monkeypatch.setattr(express, "_LOOK_EVERY_S", 0.001)
    bench = Bench()
    tasks = [asyncio.ensure_future(part) for part in (bench.dispatcher.run(), bench.express.run())]
    yield bench
    bench.attempts.end.set()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _settle() -> None:
    for _ in range(20):
        await asyncio.sleep(0.002)


async def test_one_that_is_urgent_starts_while_all_slots_are_taken(bench: Bench) -> None:
    """The ninth of eight; no tenth, however urgent, and none that is not."""
    for number in range(1, 13):
        bench.dispatcher.offer(_offer(number))
    bench.ledger.waiting = [101, 102]
    await _settle()
    assert {*range(1, 9), 101} == bench.attempts.running


async def test_what_is_urgent_goes_before_what_waited_longer(bench: Bench) -> None:
    """When slots come free, the log's next commands wait once more."""
    for number in range(1, 20):
        bench.dispatcher.offer(_offer(number))
    bench.ledger.waiting = [101, 102, 103]
    await _settle()
    bench.attempts.end.set()
    await _settle()
    order = bench.ledger.claimed
    assert [101, 102, 103] == order[8:11]


async def test_without_a_crowd_the_ledger_is_not_asked(bench: Bench) -> None:
    """The log brings it sooner."""
    bench.dispatcher.offer(_offer(1))
    bench.ledger.waiting = [101]
    await _settle()
    assert (0, {1}) == (bench.ledger.asked, bench.attempts.running)


async def test_the_logs_copy_of_an_urgent_command_starts_nothing(bench: Bench) -> None:
    """It comes later and is known."""
    for number in range(1, 10):
        bench.dispatcher.offer(_offer(number))
    bench.ledger.waiting = [101]
    await _settle()
    bench.dispatcher.offer(_offer(101))
    bench.attempts.end.set()
    await _settle()
    assert 1 == bench.ledger.claimed.count(101)


async def test_a_dead_letter_for_a_stream_that_went_on_costs_no_slot(bench: Bench) -> None:
    """Whoever has the stream now sees to it; this dispatcher goes on with others."""
    bench.attempts.poisoned = {*range(1, 9)}
    for number in range(1, 17):
        bench.dispatcher.offer(_offer(number))
    await _settle()
    assert bench.attempts.poisoned == bench.attempts.buried
    assert 8 == bench.dispatcher.lost
    assert {*range(9, 17)} == bench.attempts.running
