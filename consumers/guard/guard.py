"""An update was made: is it good enough to serve?

The candidate, the best version so far and, if that is another, the candidate's parent answer the
same anchors, with the same seeds and memories, in this one step: so chance and time favour none.
"""

from __future__ import annotations

import msgspec

from consumers.guard.lockstep import lockstep
from consumers.guard.measure import on_anchors, on_holdout, scores_by_version
from consumers.guard.shadow import shadow
from consumers.requests import command
from mia_events.learning.guard import Decision, Scores, decide, fallen
from mia_events.learning.seals import seal_of
from mia_events.learning.selection import best_of
from mia_events.steps import Plan, Step, Task
from schemas.events import LearnerSealed, LearnerTrained, LearnerUntrained


def guard(task: Task) -> Plan:
    """Promote the candidate, hold it back, or hold it back and go back to the best.

    A run without anchors has no guard: its candidates serve at once. What the holdout shows decides
    nothing.
    """
    trained = command(task, LearnerTrained)
    manifest = task.run.manifest
    best = best_of(task.history, trained.parent)
    policies = tuple(dict.fromkeys((trained.policy, best, trained.parent)))
    tried = on_anchors(task, trained, policies if manifest.guard != "off" else ())
    held_out = on_holdout(task, trained)
    ended = yield from lockstep([shadow(trial) for trial in (*tried, *held_out)])
    sealed = _sealed(task, trained, best, scores_by_version(manifest, tried, ended[: len(tried)]))
    shown = scores_by_version(manifest, held_out, ended[len(tried) :])
    places = [str(place) for place in range(len(manifest.holdout))]
    holdout = {
        policy: tuple(scores.rewards.get(place) for place in places)
        for policy, scores in shown.items()
    }
    return Step(event=msgspec.structs.replace(sealed, holdout=holdout))


def look_again(task: Task) -> Plan:
    """Nothing was made: what serves goes on, unless it has fallen below the best."""
    told = command(task, LearnerUntrained)
    manifest, best = task.run.manifest, best_of(task.history, told.policy)
    tried = on_anchors(task, told, (told.policy, best))
    ended = yield from lockstep([shadow(trial) for trial in tried])
    scores = scores_by_version(manifest, tried, ended)
    reasons = fallen(
        scores[best],
        scores[told.policy],
        rules=manifest.guard_rules,
        anchors=len(manifest.anchors),
    )
    sealed = msgspec.structs.replace(
        seal_of(told),
        policy=best if reasons else told.policy,
        scores=scores[told.policy].told("parent") | scores[best].told("best"),
        reasons=reasons,
        best=best,
    )
    return Step(event=sealed)


def _sealed(
    task: Task, trained: LearnerTrained, best: str, scores: dict[str, Scores]
) -> LearnerSealed:
    """The decision, by the scores on anchors; without any the candidate serves at once."""
    manifest = task.run.manifest
    if manifest.guard == "off":
        return _unguarded(trained)
    divergence = trained.metrics.get("kl_base")
    scores[trained.policy] = msgspec.structs.replace(scores[trained.policy], kl=divergence)
    decision = decide(
        scores[trained.policy],
        scores[best],
        scores[trained.parent] if trained.parent != best else None,
        rules=manifest.guard_rules,
        anchors=len(manifest.anchors),
    )
    return _decided(trained, best, decision, scores)


def _unguarded(trained: LearnerTrained) -> LearnerSealed:
    return LearnerSealed(
        number=trained.number,
        generation=trained.generation,
        training="promoted",
        policy=trained.policy,
        candidate=trained.policy,
        reasons=("the run has no guard",),
    )


def _decided(
    trained: LearnerTrained, best: str, decision: Decision, scores: dict[str, Scores]
) -> LearnerSealed:
    serves = {
        "promoted": trained.policy, "held_back": trained.parent, "rolled_back": best
    }[decision.verdict]  # fmt: skip
    told = {"difference": decision.difference} | scores[trained.policy].told("candidate")
    told |= scores[best].told("best")
    if trained.parent != best:
        told |= scores[trained.parent].told("parent")
    return LearnerSealed(
        number=trained.number,
        generation=trained.generation,
        training="promoted" if decision.verdict == "promoted" else "held_back",
        policy=serves,
        candidate=trained.policy,
        scores=told,
        reasons=decision.reasons,
        best=trained.policy if decision.best else best,
    )


__all__ = ["guard", "look_again"]
