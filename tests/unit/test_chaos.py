"""Kills are drawn from a seed, and hit a cluster at work."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from ops.chaos.desk import until
from ops.chaos.kills import kill_at_random
from ops.chaos.questions import cities


class _Stack:
    """Kafka and Postgres, always alive."""

    def kill(self, name: str) -> int:
        return {"kafka": 1, "postgres": 2}[name]


class _Member:
    """A worker that is down every second time it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    def signal(self, _: object) -> int:
        self.asked += 1
        return 3 * (self.asked % 2)


def _cluster() -> Any:
    members = {f"worker-{n}": _Member() for n in range(2)}
    return SimpleNamespace(stack=_Stack(), crew=SimpleNamespace(members=members))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the waits out."""
    sleep = asyncio.sleep
    monkeypatch.setattr(asyncio, "sleep", lambda _: sleep(0))


async def _done() -> float:
    return 1.0


async def test_a_seed_gives_the_same_kills_again(no_waiting: None) -> None:
    """Targets and their order are functions of the seed; another seed gives others."""

    async def targets(seed: int) -> list[str]:
        done = await kill_at_random(_cluster(), kills=20, seed=seed, share=_done)
        return [kill.target for kill in done]

    first = await targets(1)
    assert first == await targets(1)
    assert first != await targets(2)
    assert {"kafka", "postgres"} < set(first)
    assert 20 == len(first)


async def test_every_kill_hits_a_living_process(no_waiting: None) -> None:
    """What is down when its turn comes is not counted as killed."""
    done = await kill_at_random(_cluster(), kills=10, seed=3, share=_done)
    assert all(kill.pid for kill in done)


async def test_waiting_in_vain_says_for_what() -> None:
    """A trial that hangs ends with the name of what did not come."""

    async def never() -> bool:
        return False

    with pytest.raises(TimeoutError, match="until pigs fly"):
        await until("pigs fly", never, limit_s=0.02, every_s=0.005)


def test_questions_differ_and_keep_their_labels_to_themselves() -> None:
    """Each has a row and a position of its own; the record has no field with the label."""
    asked = cities(30)
    records = {question.record("run") for question in asked}
    assert 30 == len(records)
    assert not any(b'"label"' in record or b'"answer"' in record for record in records)
