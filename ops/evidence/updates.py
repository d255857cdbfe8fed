"""What a run that trains did, from its ledger: the times of updates, who answered meanwhile."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec

from mia_events.learning.versions import BASE, served_name
from ops.evidence.streaming import facts
from ops.evidence.user import User

__all__ = ["Answered", "Meanwhile", "Update", "answered", "update_of", "updates", "while_training"]

_STEPS: Final = """
SELECT e.type, e.at, convert_from(e.body, 'UTF8') AS body FROM event AS e
JOIN run AS u ON u.run_no = e.run_no
WHERE u.name = $1 AND e.type IN ('batch.ended', 'learner.batch_ready', 'learner.merged',
                                 'learner.trained', 'learner.sealed')
ORDER BY e.at, e.seq
"""
#: When the last rollout of each batch was judged: from then on there is something to train from.
_JUDGED: Final = """
SELECT q.batch, max(e.at) AS at FROM event AS e JOIN run AS u ON u.run_no = e.run_no
JOIN question AS q ON q.id = e.correlation
WHERE u.name = $1 AND e.type = 'rollout.judged' GROUP BY 1
"""
#: Replies to rollouts' planner calls (planning and reflecting), by the version that the rollout's
#: question is pinned to and by what the server said that answered.
_ANSWERED: Final = """
SELECT q.policy AS pinned, x.policy AS served, count(*) AS replies,
       count(DISTINCT e.stream) AS rollouts, count(DISTINCT q.id) AS questions
FROM effect AS x JOIN event AS e ON e.run_no = x.run_no AND e.id = x.event_id
JOIN rollout AS r ON r.id = e.stream JOIN question AS q ON q.id = r.question
JOIN run AS u ON u.run_no = e.run_no
WHERE u.name = $1 AND x.kind = 'call' AND (e.type = 'rollout.opened' OR x.policy LIKE 'planner@%')
GROUP BY 1, 2 ORDER BY 1, 2
"""
_MEANWHILE: Final = """
SELECT (SELECT count(*) FROM effect AS x
        JOIN event AS e ON e.run_no = x.run_no AND e.id = x.event_id
        JOIN rollout AS r ON r.id = e.stream
        WHERE x.run_no = u.run_no AND x.kind = 'call' AND x.at BETWEEN $2 AND $3) AS replies,
       (SELECT count(*) FROM event AS e WHERE e.run_no = u.run_no AND e.type = 'rollout.judged'
        AND e.at BETWEEN $2 AND $3) AS rollouts
FROM run AS u WHERE u.name = $1
"""


class Update(msgspec.Struct, frozen=True, kw_only=True):
    """A sealed batch, its times in seconds. `complete` is when its last rollout was judged.

    `consolidate_s` runs from there to the batch's end, `wait_s` until the learner was free,
    `merge_s` to the merged memory, `train_s` to the registered version (`engine_s`: of it, the
    engine's own work by part), `guard_s` to the decision; `load_s` of the guard's time until a
    server had loaded the version. `total_s` is all of it: from the complete batch to the seal.
    """

    batch: int
    training: str
    policy: str
    complete: datetime
    sealed: datetime
    consolidate_s: float
    wait_s: float
    merge_s: float
    total_s: float
    train_s: float | None = None
    load_s: float | None = None
    guard_s: float | None = None
    candidate: str = ""
    groups: int = 0
    rows: int = 0
    metrics: dict[str, float] = {}
    engine_s: dict[str, float] = {}
    scores: dict[str, float] = {}
    reasons: tuple[str, ...] = ()
    span: tuple[datetime, datetime] | None = None

    def told(self) -> dict[str, Any]:
        """The figures of a piece of evidence."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        for name in ("complete", "sealed", "span"):
            del found[name]
        found["metrics"] = {name: _short(value) for name, value in self.metrics.items()}
        return {name: value for name, value in found.items() if value not in (None, {}, (), "")}


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """Planner replies to rollouts pinned to a version, by what the server called who answered."""

    pinned: str
    served: str
    replies: int
    rollouts: int
    questions: int

    @property
    def kept(self) -> bool:
        """The version that answered is the one that the rollout is pinned to."""
        return self.served.startswith(f"{self.pinned}-") or (
            self.pinned == BASE and not self.served.startswith("planner@")
        )


class Meanwhile(msgspec.Struct, frozen=True, kw_only=True):
    """Replies of models to rollouts, and rollouts judged, while a batch was trained on."""

    batch: int
    replies: int
    rollouts: int


async def updates(someone: User, run: str, served: Mapping[str, datetime]) -> list[Update]:
    """Return a run's sealed batches in order. `served`: when a server first had which version."""
    complete = {row["batch"]: row["at"] for row in await facts(someone, _JUDGED, run)}
    steps: dict[int, dict[str, tuple[datetime, dict[str, Any]]]] = {}
    for row in await facts(someone, _STEPS, run):
        body = json.loads(row["body"])
        steps.setdefault(body["number"], {})[row["type"]] = (row["at"], body)
    return [
        update_of(complete[number], found, served)
        for number, found in sorted(steps.items())
        if "learner.sealed" in found
    ]


async def answered(someone: User, run: str) -> list[Answered]:
    """Return who answered the planner's calls."""
    return [Answered(**row) for row in await facts(someone, _ANSWERED, run)]


async def while_training(someone: User, run: str, made: Sequence[Update]) -> list[Meanwhile]:
    """Return how many model replies and judged rollouts fell into each training."""
    found: list[Meanwhile] = []
    for one in made:
        if one.span is not None:
            (row,) = await facts(someone, _MEANWHILE, run, *one.span)
            found.append(Meanwhile(batch=one.batch, **row))
    return found


def update_of(
    complete: datetime,
    found: Mapping[str, tuple[datetime, dict[str, Any]]],
    served: Mapping[str, datetime],
) -> Update:
    """Return what a sealed batch came to. `found` are its events and the learner's, by type."""
    at = {name: when for name, (when, _) in found.items()}
    sealed, trained = found["learner.sealed"][1], found.get("learner.trained", (None, {}))[1]
    metrics = trained.get("metrics", {})
    ended, ready, merged = at["batch.ended"], at["learner.batch_ready"], at["learner.merged"]
    made, candidate = at.get("learner.trained"), sealed.get("candidate", "")
    loaded = served.get(_at_servers(trained))
    return Update(
        batch=sealed["number"],
        training=sealed["training"],
        policy=sealed["policy"],
        candidate=candidate,
        complete=complete,
        sealed=at["learner.sealed"],
        consolidate_s=_apart(complete, ended),
        wait_s=_apart(ended, ready),
        merge_s=_apart(ready, merged),
        train_s=_apart(merged, made) if made else None,
        load_s=_apart(made, loaded) if made and loaded else None,
        guard_s=_apart(made, at["learner.sealed"]) if made else None,
        total_s=_apart(complete, max(at["learner.sealed"], loaded or complete)),
        groups=trained.get("groups", 0),
        rows=trained.get("rows", 0),
        metrics={name: one for name, one in metrics.items() if not name.startswith("seconds_")},
        engine_s={
            name.removeprefix("seconds_"): round(one, 1)
            for name, one in metrics.items()
            if name.startswith("seconds_")
        },
        scores={name: _short(one) for name, one in sealed.get("scores", {}).items()},
        reasons=tuple(sealed.get("reasons", ())) or tuple(filter(None, [sealed.get("problem")])),
        span=(merged, made) if made else None,
    )


def _at_servers(trained: Mapping[str, Any]) -> str:
    return served_name(trained["policy"], trained["adapter_sha256"]) if trained else ""


def _apart(one: datetime, other: datetime) -> float:
    return round((other - one).total_seconds(), 1)


def _short(value: float) -> float:
    return float(f"{value:.4g}")
