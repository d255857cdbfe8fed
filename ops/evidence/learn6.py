"""learn-6: wrong labels in some batches; what a guard lets serve, and what serves without one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, quantiles
from typing import Any, Final

import msgspec

from ops.evidence.curves import Curve, picture
from ops.evidence.learn2 import mean_reward
from ops.evidence.pieces import piece
from ops.evidence.planning import Trial, planning
from ops.evidence.record import Claim, Evidence, path_of
from ops.manifest import code_version

__all__ = ["TITLE", "Arm", "Served", "evidence", "judge", "served_of"]

TITLE: Final = "with wrong labels in 30 % of the batches, a guarded planner stays near its best"
_UPDATES, _FLIPPED_SHARE, _CHANCE = 10, 0.3, 6
_ALLOWED: Final = 0.02
_RESAMPLES: Final = 4_000
_GUARDED: Final = Trial(
    arm="guarded", seed=6, lr=1e-3, updates=_UPDATES, anchors=32, holdout=32, holdout_rollouts=2,
)  # fmt: skip
_SHORT: Final = msgspec.structs.replace(_GUARDED, updates=2, anchors=4, holdout=8)


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What served after a batch: its mean reward on the holdout, the best that had served so far,
    and the difference of both by question: its mean and the interval that holds 95 % of resampled
    means. `flipped`: the batch's labels were wrong.
    """

    batch: int
    flipped: bool
    decision: str
    version: str
    reward: float
    best: str
    difference: float
    low: float
    high: float


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial came to, at which commit; `base` is the base model's reward."""

    trial: Trial
    base: float
    served: tuple[Served, ...]
    reasons: tuple[str, ...]
    clean: bool
    commit: str

    @property
    def worst(self) -> Served:
        """Where what served was furthest below the best before."""
        return min(self.served, key=lambda one: one.difference)


async def evidence(*, short: bool = False) -> Evidence:
    """Train on the same questions and labels twice, with a guard and without. The short form makes
    two updates, and says nothing of the guard's worth.
    """
    guarded = _flipped(_SHORT if short else _GUARDED)
    unguarded = msgspec.structs.replace(guarded, arm="unguarded", anchors=0)
    arms = [
        await (_made(trial) if short else piece("learn-6", trial, Arm, partial(_made, trial)))
        for trial in (guarded, unguarded)
    ]
    if not short:
        path_of("learn-6").with_suffix(".svg").write_text(_drawn(arms))
    claims = [*_whole(arms), *(() if short else judge(*arms))]
    return Evidence(figures={one.trial.arm: one for one in arms}, claims=tuple(claims))


def _flipped(trial: Trial) -> Trial:
    """Choose the batches with wrong labels; never the first, before which there is nothing to
    lose.
    """
    chance = random.Random(_CHANCE)  # noqa: S311 - no secret
    most = max(1, round(trial.updates * _FLIPPED_SHARE))
    flipped = tuple(sorted(chance.sample(range(1, trial.updates), most)))
    return msgspec.structs.replace(trial, flipped=flipped)


async def _made(trial: Trial) -> Arm:
    async with planning(trial) as plans:
        await plans.begin()
        await plans.until()
        lessons = await plans.someone.told("learn", trial.name, "--once")
        report = await plans.someone.audited(trial.name)
    served = tuple(served_of(lessons, trial.flipped))
    return Arm(
        trial=trial,
        base=next(mean_reward(one["holdout"]["base"]) or 0.0 for one in lessons if one["holdout"]),
        served=served,
        reasons=tuple("; ".join(one["reasons"]) for one in lessons),
        clean=report["clean"],
        commit=code_version(),
    )


def served_of(lessons: Sequence[Mapping[str, Any]], flipped: Sequence[int]) -> Iterator[Served]:
    """Follow what served after each batch, against the best that had served until then."""
    known: dict[str, Sequence[float | None]] = {}
    best = "base"
    for lesson in lessons:
        known |= lesson["holdout"]
        if not known:
            continue  # nothing was trained yet: the base model serves, unmeasured
        version = lesson["serves"]
        best = max((best, version), key=lambda name: mean_reward(known[name]) or 0.0)
        difference, low, high = _difference(known[version], known[best])
        yield Served(
            batch=lesson["number"],
            flipped=lesson["number"] in flipped,
            decision=lesson["training"],
            version=version,
            reward=mean_reward(known[version]) or 0.0,
            best=best,
            difference=difference,
            low=low,
            high=high,
        )


def _difference(
    one: Sequence[float | None], other: Sequence[float | None]
) -> tuple[float, float, float]:
    """The mean difference over questions that both have, and its 95 % interval by bootstrap."""
    pairs = [a - b for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not pairs:
        return 0.0, -1.0, 1.0
    chance = random.Random(_CHANCE)  # noqa: S311 - no secret
    means = [fmean(chance.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES)]
    cuts = quantiles(means, n=40, method="inclusive")
    return fmean(pairs), cuts[0], cuts[-1]


def judge(guarded: Arm, unguarded: Arm) -> list[Claim]:
    """Claim that the guard keeps what serves near its best, and that there was something to keep
    it from.
    """
    flips = {arm.trial.arm: sum(one.flipped for one in arm.served) for arm in (guarded, unguarded)}
    rose = max(one.reward for one in unguarded.served) - unguarded.base
    return [
        Claim(
            f"labels were wrong in {flips} of {len(guarded.served)} batches that were trained on",
            min(flips.values()) >= _FLIPPED_SHARE * len(guarded.served) > 0,
        ),
        Claim(
            f"guarded: what served was never more than {_ALLOWED:g} below the best before"
            f" ({_told(guarded.worst)})",
            guarded.worst.difference >= -_ALLOWED,
        ),
        Claim(
            f"without a guard it was ({_told(unguarded.worst)})",
            unguarded.worst.difference < -_ALLOWED,
        ),
        Claim(f"there was something to lose: reward rose by {rose:.2f}", rose > _ALLOWED),
    ]


def _told(worst: Served) -> str:
    return (
        f"{worst.version} after batch {worst.batch}: {worst.difference:+.3f} on the holdout,"
        f" 95 % interval {worst.low:+.3f} to {worst.high:+.3f}"
    )


def _whole(arms: Sequence[Arm]) -> list[Claim]:
    made = [sum(one.decision in {"promoted", "held_back"} for one in arm.served) for arm in arms]
    return [
        Claim(f"each arm made versions that were measured: {made}", min(made) > 0),
        Claim("each run's audit is clean", all(arm.clean for arm in arms)),
    ]


def _drawn(arms: Sequence[Arm]) -> str:
    curves = [
        Curve(
            name=arm.trial.arm,
            points=((0, arm.base), *((one.batch + 1, one.reward) for one in arm.served)),
        )
        for arm in arms
    ]
    return picture("mean reward on the holdout of what serves, by update", curves)
