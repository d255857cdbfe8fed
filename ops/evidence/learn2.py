"""learn-2: a small planner learns a task, against an arm whose optimizer makes no step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, Final

import msgspec

from mia_events.learning.versions import BASE
from ops.evidence.curves import Curve, picture
from ops.evidence.pieces import piece
from ops.evidence.planning import Trial, learned, rewards_of
from ops.evidence.record import Claim, Evidence, path_of
from ops.learning.lessons import mean_reward
from ops.manifest import code_version

__all__ = ["TITLE", "Point", "Trained", "evidence", "gains", "judge"]

TITLE: Final = "a small planner learns to plan look-ups: its reward on held-back questions rises"
_TRAINED, _SKIPPED = "trained", "optimizer skipped"
#: A rate that leaves every weight as it is: the same run, but for the step.
_RATES: Final = {_TRAINED: 1e-3, _SKIPPED: 1e-30}
_SEEDS: Final = (1, 2, 3)
_UPDATES, _SHORT = 8, 2
#: Without steps it stays what it is: as many measurements as are compared are enough.
_UPDATES_SKIPPED: Final = 3
_HOLDOUT: Final = 32
_MOST_UPDATES, _MOST_TOKENS = 40, 96
_RISE: Final = 0.15
#: The last measurements, whose mean counts: one alone is noise.
_LAST: Final = 3
_NOT_SHOWN: Final = (
    "that answers get better where a model executes: here a program does what the first step says",
    "that decisions get better: no turns are left, so none is asked for, and to stop counts as one",
    "plans of several steps: what can be learned is to name place and subject in the first step",
    "how much of the gain is less noise: at temperature 1 the base model's words are nearly random",
    "how another model, learning rate or length of training would do",
)


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """An update: the mean reward of its batch (`parts` are its means by part), that of the version
    it made on the holdout, always the same questions with the same seeds.
    """

    update: int
    version: str | None
    decision: str | None
    batch: float | None
    holdout: float | None
    parts: dict[str, float]
    rows: int | None
    train_s: float | None
    guard_s: float | None


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial came to, at which commit; `base` is the base model's reward."""

    trial: Trial
    base: float | None
    points: tuple[Point, ...]
    clean: bool
    commit: str

    @property
    def measured(self) -> list[float]:
        """Mean rewards on the holdout, in the order of updates."""
        return [point.holdout for point in self.points if point.holdout is not None]

    @property
    def last(self) -> float | None:
        """The mean of the last few measurements."""
        return fmean(self.measured[-_LAST:]) if self.measured else None


async def evidence(*, short: bool = False) -> Evidence:
    """Make the run of each seed and arm that was not made before; the short form one seed's, with
    few updates, anew.
    """
    seeds = _SEEDS[:1] if short else _SEEDS
    trials = [_trial(arm, seed, short=short) for seed in seeds for arm in _RATES]
    found = [await (_made(trial) if short else _known_or_made(trial)) for trial in trials]
    if not short:
        path_of("learn-2").with_suffix(".svg").write_text(_drawn(found))
    return Evidence(
        figures={"gains": gains(found), "not shown": _NOT_SHOWN, "runs": found},
        claims=(*_judge_runs(found), *(() if short else judge(found))),
    )


def _trial(arm: str, seed: int, *, short: bool) -> Trial:
    updates = _SHORT if short else _UPDATES if arm == _TRAINED else _UPDATES_SKIPPED
    return Trial(arm=arm, seed=seed, lr=_RATES[arm], updates=updates, holdout=_HOLDOUT)


def gains(found: Sequence[Trained]) -> dict[str, float]:
    """Return how much better the trained arm ends than the other, by the seed's name."""
    last = {(one.trial.arm, one.trial.seed): one.last for one in found}
    pairs = {
        seed: (ended, last.get((_SKIPPED, seed)))
        for (arm, seed), ended in last.items()
        if arm == _TRAINED
    }
    return {
        str(seed): round(ended - other, 3)
        for seed, (ended, other) in pairs.items()
        if ended is not None and other is not None
    }


def judge(found: Sequence[Trained]) -> list[Claim]:
    """Claim that training raises the reward on held-back questions."""
    gained, ends = gains(found), {arm: _ends(found, arm) for arm in _RATES}
    mean = fmean(gained.values()) if gained else 0.0
    return [
        Claim(
            f"held-back reward ends at {ends[_TRAINED]:.2f}, at {ends[_SKIPPED]:.2f} with the"
            f" optimizer skipped: {mean:+.2f} over {len(gained)} seeds",
            mean >= _RISE and len(gained) == len(_SEEDS),
        ),
        Claim(
            f"each seed gains: {', '.join(f'{one:+.2f}' for one in gained.values())}",
            bool(gained) and min(gained.values()) > 0,
        ),
    ]


def _ends(found: Sequence[Trained], arm: str) -> float:
    last = [one.last for one in found if one.trial.arm == arm and one.last is not None]
    return fmean(last) if last else float("nan")


def _judge_runs(found: Sequence[Trained]) -> list[Claim]:
    updates = max(one.trial.updates for one in found)
    tokens = max(one.trial.tokens for one in found)
    made = [len(one.measured) for one in found]
    return [
        Claim(
            f"{len(found)} runs of at most {updates} updates and {tokens} new tokens a turn",
            updates <= _MOST_UPDATES and tokens <= _MOST_TOKENS,
        ),
        Claim(f"each made versions that were measured: {made}", min(made) > 0),
        Claim("each run's audit is clean", all(one.clean for one in found)),
    ]


async def _known_or_made(trial: Trial) -> Trained:
    return await piece("learn-2", trial, Trained, lambda: _made(trial))


async def _made(trial: Trial) -> Trained:
    """Train on a stack of its own, where nothing is held back from serving."""
    run = await learned(trial)
    return Trained(
        trial=trial,
        base=mean_reward(rewards_of(run.lessons).get(BASE, ())),
        points=tuple(_point(lesson) for lesson in run.lessons),
        clean=run.clean,
        commit=code_version(),
    )


def _point(lesson: Mapping[str, Any]) -> Point:
    return Point(
        update=lesson["number"] + 1,
        version=lesson["candidate"],
        decision=lesson["training"],
        batch=lesson["reward"],
        holdout=mean_reward(lesson["holdout"].get(lesson["candidate"], ())),
        parts=lesson["parts"],
        rows=lesson["rows"],
        train_s=lesson["train_s"],
        guard_s=lesson["guard_s"],
    )


def _drawn(found: Sequence[Trained]) -> str:
    curves = [
        Curve(
            name=one.trial.arm,
            points=(
                *(((0, one.base),) if one.base is not None else ()),
                *((p.update, p.holdout) for p in one.points if p.holdout is not None),
            ),
        )
        for one in found
    ]
    return picture("mean reward on held-back questions, by update", curves)
