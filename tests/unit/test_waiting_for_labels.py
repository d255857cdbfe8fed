"""What comes late, a label or a version: it is waited for, and where it may never come, not for
ever.
"""

from typing import Any
from uuid import UUID

import pytest

from consumers.effects.missing import Missing
from consumers.effects.model_client import NotServed
from consumers.effects.performer import RealPerformer
from mia_events.effects import Call, Label, ReadLabel
from mia_events.learning.job import Hyper
from mia_events.learning.prepare import prepare
from mia_events.learning.rewards import WEIGHTS, Weights
from mia_events.lifecycle import Kind
from mia_events.steps import Late
from schemas.events import RolloutFinished, RolloutJudged
from tests.support.drive import QUESTION, task
from tests.support.groups import group, recorded, reply, turns
from tests.support.guarding import guarding, trained
from tests.support.histories import answered, submitted

LOOK = ReadLabel(question=QUESTION.id)


class Labels:
    """A store in which the judge has waited for so long."""

    def __init__(self, waited_s: float, value: str | None = None) -> None:
        self.waited_s, self.value = waited_s, value

    async def label(self, question: UUID) -> str | None:
        """What there is."""
        return self.value

    async def waited(self, run_no: int, event_id: UUID) -> float:
        """What the test says."""
        return self.waited_s


async def looked(labels: Any, wait_s: float | None) -> Label:
    """What the judge of a rollout is told."""
    port: Any = None
    performer = RealPerformer(
        models=port, versions=port, memory=port, ledger=port, artifacts=port, labels=labels
    )
    reply: Any = await performer.perform(LOOK, task(Kind.ROLLOUT, submitted(), label_wait_s=wait_s))
    return Label(reply.value)


@pytest.mark.parametrize("waited_s,pause_s", [(0.0, 1.0), (8.0, 8.0), (500.0, 30.0), (3595, 5.0)])
async def test_the_judge_comes_back_for_a_label(waited_s: float, pause_s: float) -> None:
    """Soon at first, seldom later, and just when the wait is over."""
    with pytest.raises(Late, match="no label yet") as late:
        await looked(Labels(waited_s), 3600.0)
    assert pause_s == late.value.delay_s


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
        labels: Any = Labels(0.0)
        self.now_s = 0.0
        at = guarding(*trained(0, "planner@v1"), **changes)
        self._task = at if kind is Kind.LEARNER else task(Kind.ROLLOUT, submitted())
        self._performer = RealPerformer(
            models=port, versions=port, memory=port, ledger=port, artifacts=port, labels=labels,
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


async def test_a_label_that_is_there_is_taken_at_once() -> None:
    """Nobody asks how long it took."""
    assert Label("Scott") == await looked(Labels(0.0, "Scott"), 3600.0)


@pytest.mark.parametrize("wait_s,waited_s", [(None, 0.0), (3600.0, 3600.0)])
async def test_the_wait_ends(wait_s: float | None, waited_s: float) -> None:
    """A run that does not wait, and one that has waited long enough."""
    assert Label(None) == await looked(Labels(waited_s), wait_s)


async def test_the_guard_waits_for_no_label() -> None:
    """Anchors have theirs from the beginning."""
    port: Any = None
    performer = RealPerformer(
        models=port,
        versions=port,
        memory=port,
        ledger=port,
        artifacts=port,
        labels=Labels(0.0),  # type: ignore[arg-type]
    )
    todo = guarding(*trained(0, "planner@v1"), label_wait_s=3600.0)
    assert Label(None) == await performer.perform(LOOK, todo)


@pytest.mark.parametrize("chosen,expected", [(None, {1.0, 0.1}), (Weights(first=0.1), {0.9, 0.05})])
def test_a_group_that_reviewers_graded_is_rewarded_without_a_label(
    chosen: Weights | None, expected: set[float]
) -> None:
    """0.9 final + 0.1 format, unless the run chose its weights."""
    rollouts = []
    for number, grade in enumerate(("correct", "incorrect")):
        history = [
            *answered(number, "sibling"),
            RolloutFinished(answer="Scott"),
            RolloutJudged(grade=grade, judge="j", basis="review"),  # type: ignore[arg-type]
        ]
        said = turns(number, ("plan", reply("1. Go.")), ("reflect", reply("no")))
        rollouts.append(recorded(number, history, said))
    weights = chosen or WEIGHTS["supervised"]
    found = prepare([group(*rollouts)], weights=weights, hyper=Hyper())
    assert pytest.approx(sorted(expected)) == sorted({row.reward for row in found.rows})
