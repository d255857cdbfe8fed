"""A merged batch becomes one update of the planner, or a stated reason why not.

A group is used up by the first batch that could take it, whatever comes of the update: so that what
cannot be trained from does not come again with every later batch.
"""

from __future__ import annotations

from statistics import fmean
from typing import Final, Literal
from uuid import UUID

import msgspec

from consumers.requests import choice_of, command
from mia_events import ids
from mia_events.effects import Candidates, ChooseGroups, ReadGroups, Train, ask
from mia_events.learning.job import Trained, TrainJob
from mia_events.learning.prepare import Prepared, prepare
from mia_events.learning.record import version_record
from mia_events.learning.rewards import weights_of
from mia_events.learning.rows import data_sha256
from mia_events.learning.seals import seal_of
from mia_events.learning.selection import Selection, best_of, lineage_of, select
from mia_events.learning.versions import number_of, version_name
from mia_events.quoting import clip
from mia_events.steps import NewVersion, Plan, PolicyWrite, Step, Task
from schemas.events import LearnerMerged, LearnerTrained, LearnerUntrained

_PROBLEM_CHARACTERS: Final = 2_000


class _Batch(msgspec.Struct, frozen=True, kw_only=True):
    """What a batch trains from: the version to start from, and the groups that were chosen."""

    merged: LearnerMerged
    found: Candidates
    selection: Selection
    prepared: Prepared


def update(task: Task) -> Plan:
    """Choose groups, reward and compare their rollouts, and train on the planner's turns."""
    merged = command(task, LearnerMerged)
    found = yield from ask(ChooseGroups(run=task.run.id, number=merged.number))
    selection = _selected(task, found)
    groups = yield from ask(ReadGroups(run=task.run.id, questions=selection.chosen))
    manifest = task.run.manifest
    weights = weights_of(manifest.judge, manifest.reward)
    prepared = prepare(groups.items, weights=weights, hyper=manifest.hyper)
    batch = _Batch(merged=merged, found=found, selection=selection, prepared=prepared)
    if prepared.problem:
        kind: Literal["skipped", "failed"] = "failed" if prepared.problems else "skipped"
        why = "; ".join((prepared.problem, *prepared.problems))
        return _nothing_made(task, batch, kind, clip(why, _PROBLEM_CHARACTERS))
    job = _job(task, batch)
    trained = yield from ask(Train(job=job))
    return _registered(task, batch, job, trained)


def _selected(task: Task, found: Candidates) -> Selection:
    lineage = lineage_of(task.history, found.parent.policy)
    manifest = task.run.manifest
    limit = manifest.batch_size if manifest.mode == "live" else None
    return select(found.items, lineage=lineage, staleness=manifest.staleness, limit=limit)


def _nothing_made(
    task: Task, batch: _Batch, training: Literal["skipped", "failed"], problem: str
) -> Step:
    """Seal the batch; where what serves is not the best, a guard looks at it first: it may be why
    there is nothing to learn from.
    """
    merged, policy = batch.merged, batch.found.parent.policy
    told = LearnerUntrained(
        number=merged.number,
        generation=merged.generation,
        policy=policy,
        training=training,
        problem=problem,
        metrics=_counts(task, batch),
    )
    guarded = task.run.manifest.guard != "off" and best_of(task.history, policy) != policy
    return Step(
        event=told if guarded else seal_of(told),
        policy=PolicyWrite(batch=merged.number, groups=_settled(batch.selection)),
    )


def _settled(selection: Selection) -> tuple[UUID, ...]:
    """What was chosen, and what was too old: neither is to come again."""
    return (*selection.chosen, *selection.stale)


def _job(task: Task, batch: _Batch) -> TrainJob:
    manifest, number = task.run.manifest, _next_number(task)
    return TrainJob(
        policy=version_name(number),
        model=choice_of(task, "planner").model,
        parent=batch.found.parent,
        hyper=manifest.hyper,
        seed=ids.seed(manifest.seed, "train", number),
        rows=batch.prepared.rows,
    )


def _next_number(task: Task) -> int:
    """Every update has a number of its own, also one that was held back."""
    made = (event.policy for event in task.history if isinstance(event, LearnerTrained))
    return 1 + max((number_of(policy) or 0 for policy in made), default=0)


def _registered(task: Task, batch: _Batch, job: TrainJob, trained: Trained) -> Step:
    merged, sha = batch.merged, data_sha256(job.rows)
    metrics = {**trained.metrics, **_counts(task, batch)}
    version = NewVersion(
        number=number_of(job.policy) or 0,
        name=job.policy,
        parent=job.parent.policy,
        adapter_sha256=trained.adapter_sha256,
        optimizer_sha256=trained.optimizer_sha256,
        data_sha256=sha,
        record=version_record(job, trained, metrics, batch.prepared.problems),
    )
    return Step(
        event=LearnerTrained(
            number=merged.number,
            generation=merged.generation,
            policy=job.policy,
            parent=job.parent.policy,
            adapter_sha256=trained.adapter_sha256,
            optimizer_sha256=trained.optimizer_sha256,
            data_sha256=sha,
            groups=batch.prepared.trained,
            rows=len(job.rows),
            metrics=metrics,
        ),
        policy=PolicyWrite(batch=merged.number, groups=_settled(batch.selection), version=version),
    )


def _counts(task: Task, batch: _Batch) -> dict[str, float]:
    """What became of the batch's groups, and how old they were, by name."""
    prepared, selection = batch.prepared, batch.selection
    lineage = lineage_of(task.history, batch.found.parent.policy)
    ages = [
        len(lineage) - 1 - lineage.index(one.policy)
        for one in batch.found.items
        if one.question in selection.chosen
    ]
    return {
        **{f"mean.{name}": value for name, value in prepared.means.items()},
        "groups.flat": float(prepared.flat),
        "groups.small": float(prepared.small),
        "groups.untrainable": float(len(batch.prepared.problems)),
        "groups.stale": float(len(selection.stale)),
        "rollouts.unjudged": float(prepared.unjudged),
        **({"staleness.max": float(max(ages)), "staleness.mean": fmean(ages)} if ages else {}),
    }


__all__ = ["update"]
