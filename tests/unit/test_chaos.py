"""Kills are drawn from a seed, and hit a cluster at work."""

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from ops.chaos import trial
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
    assert Counter(kafka=5, postgres=5, worker=10) == Counter(t.partition("-")[0] for t in first)


async def test_every_kill_hits_a_living_process(no_waiting: None) -> None:
    """What is down when its turn comes is killed when it is back."""
    done = await kill_at_random(_cluster(), kills=10, seed=3, share=_done)
    assert all(kill.pid for kill in done)


async def test_an_audit_waits_for_the_topics_of_a_broker_that_was_killed_last(
    no_waiting: None,
) -> None:
    """Whether topics and ledger agree can be said once they can be read."""
    reports = [SimpleNamespace(complete=False), SimpleNamespace(complete=True)]

    async def value(*_: object) -> int:
        return 0

    async def audited(_: object) -> Any:
        return reports.pop(0)

    cluster: Any = SimpleNamespace(desk=SimpleNamespace(value=value), audited=audited)
    run: Any = SimpleNamespace(run_no=1)
    assert (await trial.settled_report(cluster, run)).complete


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
