"""A label that comes after the answer: the judge comes back for it, and not for ever."""

from typing import Any
from uuid import UUID

import pytest

from consumers.effects.performer import RealPerformer
from mia_events.effects import Label, ReadLabel
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


@pytest.mark.parametrize("waited_s,pause_s", [(0.0, 1.0), (8.0, 8.0), (700.0, 600.0), (3595, 5.0)])
async def test_the_judge_comes_back_for_a_label(waited_s: float, pause_s: float) -> None:
    """Soon at first, seldom later, and just when the wait is over."""
    with pytest.raises(Late, match="no label yet") as late:
        await looked(Labels(waited_s), 3600.0)
    assert pause_s == late.value.delay_s


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
