"""Versions measured: on anchors anew each round, on the holdout each once."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from consumers.guard.shadow import Trial
from mia_events.effects import RolloutTurns
from mia_events.learning.guard import Anchor, Scores, scores_of
from mia_events.learning.rewards import weights_of
from mia_events.learning.versions import BASE
from mia_events.steps import Manifest, RunView, Task
from schemas.events import LearnerSealed, LearnerTrained, LearnerUntrained


def on_anchors(
    task: Task, told: LearnerTrained | LearnerUntrained, policies: Iterable[str]
) -> list[Trial]:
    """Every anchor by every version, with seeds and memories of this round."""
    manifest = task.run.manifest
    return _trials(
        task.run,
        manifest.anchors,
        policies,
        rollouts=manifest.guard_rules.rollouts,
        pass_no=told.number,
        generation=told.generation,
    )


def on_holdout(task: Task, trained: LearnerTrained) -> list[Trial]:
    """Every question of the holdout by the versions at hand that were never measured on it.

    Seeds are the same in all rounds. So are memories in a run with batches, those that it began
    with: there, nothing but the version differs between rounds.
    """
    manifest = task.run.manifest
    known = {
        policy
        for one in task.history
        if isinstance(one, LearnerSealed)
        for policy, rewards in one.holdout.items()
        if any(reward is not None for reward in rewards)
    }
    at_hand = dict.fromkeys((BASE, trained.parent, trained.policy))
    return _trials(
        task.run,
        manifest.holdout,
        [policy for policy in at_hand if policy not in known],
        rollouts=manifest.holdout_rollouts,
        pass_no=0,
        generation=0,
    )


def _trials(
    run: RunView,
    questions: Sequence[Anchor],
    policies: Iterable[str],
    *,
    rollouts: int,
    pass_no: int,
    generation: int,
) -> list[Trial]:
    return [
        Trial(
            run=run,
            anchor=question,
            position=position,
            pass_no=pass_no,
            number=number,
            generation=generation,
            policy=policy,
        )
        for policy in policies
        for position, question in enumerate(questions)
        for number in range(rollouts)
    ]


def scores_by_version(
    manifest: Manifest, trials: Sequence[Trial], ended: Sequence[RolloutTurns]
) -> dict[str, Scores]:
    """Score each version by its ended trials."""
    groups: dict[str, dict[str, list[RolloutTurns]]] = {}
    for trial, rollout in zip(trials, ended, strict=True):
        group = groups.setdefault(trial.policy, {})
        group.setdefault(str(trial.position), []).append(rollout)
    weights = weights_of(manifest.judge, manifest.reward)
    return {policy: scores_of(group, weights) for policy, group in groups.items()}


__all__ = ["on_anchors", "on_holdout", "scores_by_version"]
