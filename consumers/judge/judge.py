"""Grade an answer by the judge that the run chose.

A judge that fails leaves the rollout unjudged, with the reason: never graded by default.
"""

from __future__ import annotations

from consumers.judge.supervised import supervised
from consumers.judge.unsupervised import unsupervised
from mia_events.steps import Plan, Step, Task
from mia_events.trajectory import follow
from schemas.events import RolloutJudged


def judge(task: Task) -> Plan:
    """Ask the run's judge, unless there is none or there is no answer."""
    so_far, kind = follow(task.history), task.run.manifest.judge
    if kind == "none":
        yield from ()
        return _ungraded("the run has no judge")
    if so_far.answer is None:
        return Step(event=RolloutJudged(grade="not_attempted", judge="none", reason="no answer"))
    if kind == "unsupervised":
        return (yield from unsupervised(task, so_far, so_far.answer))
    return (yield from supervised(task, so_far, so_far.answer))


def _ungraded(reason: str) -> Step:
    return Step(event=RolloutJudged(grade="unjudged", judge="none", reason=reason))


__all__ = ["judge"]
