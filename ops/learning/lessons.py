"""A run's events, summed up by batch: who answered, what was learned, what was decided."""

from collections.abc import Iterable
from datetime import datetime
from statistics import fmean
from typing import Final, Literal

import msgspec

from mia_events.learning.versions import BASE
from schemas import events as ev
from schemas.events import Event

__all__ = ["TYPES", "Lesson", "Ordered", "lessons_of", "mean_reward"]

#: The events that tell of learning.
TYPES: Final = (
    "batch.opened",
    "batch.ended",
    "learner.batch_ready",
    "learner.merged",
    "learner.trained",
    "learner.untrained",
    "learner.sealed",
    "run.policy_set",
    "run.cancelled",
)
Phase = Literal["answering", "waiting", "merging", "training", "guarding", "sealed", "cancelled"]


class Lesson(msgspec.Struct, kw_only=True):
    """A batch. `policy` answered it, `candidate` was trained from it, `serves` does afterwards.

    `reward` is the mean over its judged rollouts and `parts` the means of the parts; `score` is the
    candidate's mean reward on anchors, `best` that of the version it was compared with, `holdout`
    has the rewards on its questions of the versions that were measured on it. `stale` is the most
    versions that a group was older than the one it updated. Seconds run from when the learner took
    the batch: to the merge, from there to the update, from there to the decision.
    """

    number: int
    phase: Phase = "answering"
    policy: str = BASE
    generation: int | None = None
    candidate: str | None = None
    parent: str | None = None
    groups: int | None = None
    rows: int | None = None
    reward: float | None = None
    parts: dict[str, float] = {}
    metrics: dict[str, float] = {}
    training: str | None = None
    serves: str | None = None
    score: float | None = None
    best: float | None = None
    holdout: dict[str, tuple[float | None, ...]] = {}
    reasons: tuple[str, ...] = ()
    stale: float | None = None
    ended_at: datetime | None = None
    sealed_at: datetime | None = None
    merge_s: float | None = None
    train_s: float | None = None
    guard_s: float | None = None

    @property
    def decision(self) -> str:
        """What was decided, for a reader; while nothing is, the phase."""
        said = (self.training or self.phase).replace("_", " ")
        back = self.parent is not None and self.serves not in {None, self.parent, self.candidate}
        return f"{said}, rolled back" if back else said

    @property
    def on_holdout(self) -> float | None:
        """The candidate's mean reward on the holdout."""
        return mean_reward(self.holdout.get(self.candidate or "", ()))


def mean_reward(rewards: Iterable[float | None]) -> float | None:
    """Return the mean over the questions that were judged."""
    known = [reward for reward in rewards if reward is not None]
    return fmean(known) if known else None


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """An order that changed what serves, after so many batches had been sealed."""

    at: datetime
    after: int
    policy: str
    previous: str
    by: str
    reason: str


class _Book:
    def __init__(self) -> None:
        self.lessons: dict[int, Lesson] = {}
        self.orders: list[Ordered] = []
        self._last: dict[int, datetime] = {}

    def add(self, at: datetime, event: Event) -> None:
        match event:
            case ev.BatchOpened():
                self._of(event.number).policy = event.policy
            case ev.BatchEnded():
                self._step(event.number, "waiting", at)
                self._of(event.number).ended_at = at
            case ev.LearnerBatchReady():
                self._step(event.number, "merging", at)
            case ev.LearnerMerged():
                lesson = self._of(event.number)
                lesson.generation = event.generation
                lesson.merge_s = self._step(event.number, "training", at)
            case ev.LearnerTrained():
                self._trained(at, event)
            case ev.LearnerUntrained():
                self._step(event.number, "guarding", at)
                self._of(event.number).parent = event.policy
                _measured(self._of(event.number), event.metrics)
            case ev.LearnerSealed():
                self._sealed(at, event)
            case ev.RunPolicySet():
                self._ordered(at, event)
            case ev.RunCancelled():
                self._cancelled()
            case _:
                return

    def _of(self, number: int) -> Lesson:
        return self.lessons.setdefault(number, Lesson(number=number))

    def _step(self, number: int, phase: Phase, at: datetime) -> float | None:
        """Enter a phase; the seconds since the one before."""
        self._of(number).phase = phase
        before, self._last[number] = self._last.get(number), at
        return (at - before).total_seconds() if before else None

    def _trained(self, at: datetime, event: ev.LearnerTrained) -> None:
        lesson = self._of(event.number)
        lesson.train_s = self._step(event.number, "guarding", at)
        lesson.candidate, lesson.parent = event.policy, event.parent
        lesson.groups, lesson.rows = event.groups, event.rows
        _measured(lesson, event.metrics)

    def _sealed(self, at: datetime, event: ev.LearnerSealed) -> None:
        lesson = self._of(event.number)
        seconds = self._step(event.number, "sealed", at)
        if lesson.candidate is not None:
            lesson.guard_s = seconds
        lesson.generation, lesson.sealed_at = event.generation, at
        lesson.training, lesson.serves = event.training, event.policy
        lesson.candidate = event.candidate or lesson.candidate
        lesson.score = event.scores.get("candidate.reward")
        lesson.best = event.scores.get("best.reward")
        lesson.holdout = event.holdout
        if event.metrics:
            _measured(lesson, event.metrics)
        lesson.reasons = event.reasons or ((event.problem,) if event.problem else ())

    def _ordered(self, at: datetime, event: ev.RunPolicySet) -> None:
        after = sum(lesson.sealed_at is not None for lesson in self.lessons.values())
        self.orders.append(
            Ordered(
                at=at,
                after=after,
                policy=event.policy,
                previous=event.previous,
                by=event.by,
                reason=event.reason,
            )
        )

    def _cancelled(self) -> None:
        for lesson in self.lessons.values():
            if lesson.sealed_at is None:
                lesson.phase = "cancelled"


def _measured(lesson: Lesson, metrics: dict[str, float]) -> None:
    """Note what was seen of a batch, whether or not a version was made from it."""
    means = {name[5:]: value for name, value in metrics.items() if name.startswith("mean.")}
    lesson.reward = means.pop("reward", None)
    lesson.parts, lesson.stale, lesson.metrics = means, metrics.get("staleness.max"), metrics


def lessons_of(events: Iterable[tuple[datetime, Event]]) -> tuple[list[Lesson], list[Ordered]]:
    """Return a run's batches by number, and the orders that came in between. `events` are by time,
    those of a stream in its order.
    """
    book = _Book()
    for at, event in events:
        book.add(at, event)
    return [book.lessons[number] for number in sorted(book.lessons)], book.orders
