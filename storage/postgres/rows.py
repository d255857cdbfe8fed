"""The rows that one group commit is made of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mia_events.commits import StepCommit
    from storage.ports import PendingCommit


def commit_rows(units: Sequence[PendingCommit]) -> tuple[list[Any], ...]:
    """Locks, effects, entries, questions, joins and seals: the commit function's parameters."""
    locks: set[Any] = set()
    effects: list[tuple[Any, ...]] = []
    entries: list[tuple[Any, ...]] = []
    questions: list[tuple[Any, ...]] = []
    joins: list[tuple[Any, ...]] = []
    seals: list[tuple[Any, ...]] = []
    for index, unit in enumerate(units):
        step = unit.step
        for f in unit.effects:
            effects.append(  # noqa: PERF401 - as the entries below
                (
                    index,
                    f.run_no,
                    f.event_id,
                    f.ordinal,
                    f.kind,
                    f.policy,
                    f.request_sha,
                    f.result,
                    f.sealed,
                    step is None,
                )
            )
        if step is None:
            continue
        locks |= step.touches
        for e in step.entries:
            entries.append(  # noqa: PERF401 - a generator of such rows reads worse
                (
                    index,
                    e.guard,
                    e.stream,
                    e.kind,
                    step.run_no,
                    e.event_id,
                    e.type,
                    e.body,
                    e.status,
                    e.topic,
                    e.outbox,
                    e.phase,
                    e.version,
                    e.claim,
                    e.attempt,
                    e.when or None,
                    e.parent,
                    e.cause,
                    e.number,
                    e.outcome,
                    e.next_claim,
                )
            )
        if (q := step.question) is not None:
            questions.append(
                (
                    index,
                    q.question,
                    q.fanned,
                    q.candidate,
                    q.official,
                    q.answer,
                    q.status,
                    q.reason,
                    q.grade,
                )
            )
        joins.extend((j.owner, j.name, j.id) for j in step.joins)
        if step.generation is not None:
            seals.append((index, step.run_no, step.generation, *_decision(step)))
    return list(locks), effects, entries, questions, joins, seals


def _decision(step: StepCommit) -> tuple[str | None, ...]:
    found = step.decision
    if found is None:
        return (None,) * 4
    return (found.served, found.serves, found.candidate, found.state)


__all__ = ["commit_rows"]
