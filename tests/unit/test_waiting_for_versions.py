"""A version that no server takes: questions wait for it, and a guard not for ever."""

from typing import Any

import pytest

from consumers.effects.missing import Missing
from consumers.effects.model_client import NotServed
from consumers.effects.performer import RealPerformer
from mia_events.effects import Call
from mia_events.lifecycle import Kind
from mia_events.steps import Late
from tests.support.drive import task
from tests.support.guarding import guarding, trained
from tests.support.histories import submitted


class Nowhere:
    """No server takes any version."""

    async def served(self, run: object, model: str) -> str:
        """Its name at servers."""
        return f"{model}-0123456789ab"

    async def chat(self, call: object, *, served: str) -> None:
        """See the client."""
        raise NotServed(f"{served} is not served yet", 1.0)


class Guard:
    """A guard, or a question, that asks for a version at the hours of a clock."""

    def __init__(self, kind: Kind = Kind.LEARNER, **changes: Any) -> None:
        port: Any = Nowhere()
        self.now_s = 0.0
        at = guarding(*trained(0, "planner@v1"), **changes)
        self._task = at if kind is Kind.LEARNER else task(Kind.ROLLOUT, submitted())
        self._performer = RealPerformer(
            models=port, versions=port, memory=port, ledger=port, artifacts=port, labels=port,
            missing=Missing(lambda: self.now_s),
        )  # fmt: skip

    async def asks(self, *times_s: float) -> Any:
        """What the last request comes to; the ones before are to come again."""
        call = Call(role="planner", model="planner@v1", messages=(), max_tokens=9)
        for self.now_s in times_s[:-1]:
            with pytest.raises(Late):
                await self._performer.perform(call, self._task)
        self.now_s = times_s[-1]
        return await self._performer.perform(call, self._task)


_MINUTES = [60.0 * minute for minute in range(61)]


async def test_a_guard_waits_for_a_version_that_no_server_takes_but_not_for_ever() -> None:
    """Its trial ends without a grade: the run goes on with what serves."""
    reply = await Guard().asks(*_MINUTES, 3_601.0)
    assert "not served yet" in reply.problem


async def test_a_guard_that_slept_waits_anew() -> None:
    """Nobody knows what servers would have taken meanwhile: the stack may have been down."""
    with pytest.raises(Late):
        await Guard().asks(*_MINUTES[:30], 9_000.0)


async def test_a_question_waits_for_its_version_as_long_as_it_takes() -> None:
    """It served before. And a deterministic run has no limits of time."""
    for guard in (Guard(Kind.ROLLOUT), Guard(deterministic=True)):
        with pytest.raises(Late):
            await guard.asks(*_MINUTES, 3_601.0)
