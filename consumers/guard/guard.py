"""An update was made: is it good enough to serve?

The candidate, the best version so far and, if that is another, the candidate's parent answer the
same anchors, with the same seeds and memories, in this one step: so chance and time favour none.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import msgspec

from consumers.guard.lockstep import lockstep
from consumers.guard.shadow import Trial, shadow
from consumers.requests import command
from mia_events.effects import RolloutTurns, Wanted
from mia_events.learning.guard import Decision, Scores, decide, scores_of
from mia_events.learning.rewards import weights_of
from mia_events.learning.selection import lineage_of
from mia_events.learning.versions import BASE
from mia_events.steps import Plan, Step, Task
from schemas.events import LearnerSealed, LearnerTrained


def guard(task: Task) -> Plan:
    """Promote the candidate, hold it back, or hold it back and go back to the best.

    A run without anchors has no guard: its candidates serve at once.
    """
    trained = command(task, LearnerTrained)
    if task.run.manifest.guard == "off":
        yield from ()
        return Step(event=_unguarded(trained))
    best = _best(task, trained)
    policies = tuple(dict.fromkeys((trained.policy, best, trained.parent)))
    scores = yield from _measured(task, trained, policies)
    decision = decide(
        scores[trained.policy],
        scores[best],
        scores[trained.parent] if trained.parent != best else None,
        rules=task.run.manifest.guard_rules,
        anchors=len(task.run.manifest.anchors),
    )
    return Step(event=_sealed(trained, best, decision, scores))


def _unguarded(trained: LearnerTrained) -> LearnerSealed:
    return LearnerSealed(
        number=trained.number,
        generation=trained.generation,
        training="promoted",
        policy=trained.policy,
        candidate=trained.policy,
        reasons=("the run has no guard",),
    )


def _best(task: Task, trained: LearnerTrained) -> str:
    """The best version among the candidate's ancestors: an operator may have gone back behind it.

    Without a guard's word it is the parent.
    """
    sealed = (event for event in reversed(task.history) if isinstance(event, LearnerSealed))
    named = next((event.best for event in sealed if event.best), BASE)
    return named if named in lineage_of(task.history, trained.parent) else trained.parent


def _measured(
    task: Task, trained: LearnerTrained, policies: Sequence[str]
) -> Generator[Wanted, Any, dict[str, Scores]]:
    """Each version's scores on all anchors, every rollout at once."""
    manifest = task.run.manifest
    trials = [
        Trial(
            run=task.run,
            anchor=anchor,
            position=position,
            pass_no=trained.number,
            number=number,
            generation=trained.generation,
            policy=policy,
        )
        for policy in policies
        for position, anchor in enumerate(manifest.anchors)
        for number in range(manifest.guard_rules.rollouts)
    ]
    ended = yield from lockstep([shadow(trial) for trial in trials])
    groups: dict[str, dict[str, list[RolloutTurns]]] = {policy: {} for policy in policies}
    for trial, rollout in zip(trials, ended, strict=True):
        groups[trial.policy].setdefault(str(trial.position), []).append(rollout)
    weights = weights_of(manifest.judge, manifest.reward)
    scores = {policy: scores_of(group, weights) for policy, group in groups.items()}
    divergence = trained.metrics.get("kl_base")
    scores[trained.policy] = msgspec.structs.replace(scores[trained.policy], kl=divergence)
    return scores


def _sealed(
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


__all__ = ["guard"]
