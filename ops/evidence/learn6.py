"""learn-6: wrong labels in some batches; what a guard lets serve, and what serves without one."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import fmean, quantiles
from typing import Any, Final

import msgspec

from mia_events.learning.versions import BASE
from ops.evidence.curves import Curve, picture
from ops.evidence.pieces import piece
from ops.evidence.planning import Trial, learned, rewards_of
from ops.evidence.record import Claim, Evidence, path_of
from ops.learning.lessons import mean_reward
from ops.manifest import code_version

__all__ = ["TITLE", "Arm", "Difference", "Served", "compare", "evidence", "judge", "served_of"]

TITLE: Final = "with wrong labels in 30 % of the batches, a guarded planner stays near its best"
_UPDATES, _FLIPPED_SHARE, _CHANCE = 10, 0.3, 6
_ALLOWED: Final = 0.02
_RESAMPLES: Final = 4_000
_GUARDED: Final = Trial(
    arm="guarded", seed=6, lr=1e-3, updates=_UPDATES, anchors=32, attempts=4, z=2.0, holdout=36,
    holdout_rollouts=4,
)  # fmt: skip
_SHORT: Final = msgspec.structs.replace(
    _GUARDED, updates=2, anchors=4, holdout=8, holdout_rollouts=1
)
_MADE: Final = frozenset({"promoted", "held_back"})
Rewards = Sequence[float | None]


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """By how much one version is better than another: the mean over questions of the holdout that
    were judged for both, and the interval that holds 95 % of resampled means.
    """

    mean: float
    low: float
    high: float
    questions: int


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """What served after a batch, and how it differs from the best that had served until then.

    `flipped`: the batch's labels were wrong. `best`: the best on either half of the holdout.
    """

    batch: int
    flipped: bool
    decision: str
    version: str
    reward: float | None
    best: tuple[str, str]
    difference: Difference | None


class Arm(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial came to, at which commit; `gain` is of what served last over the base model."""

    trial: Trial
    base: float | None
    gain: Difference | None
    served: tuple[Served, ...]
    reasons: tuple[str, ...]
    clean: bool
    commit: str

    @property
    def worst(self) -> Served | None:
        """Where what served was furthest below the best before; what is unknown is further."""
        return min(self.served, key=_mean, default=None)

    @property
    def flips(self) -> int:
        """How many versions were made from wrong labels."""
        return sum(one.flipped and one.decision in _MADE for one in self.served)


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
    run = await learned(trial)
    lessons, rewards = run.lessons, rewards_of(run.lessons)
    base, last = rewards.get(BASE, ()), lessons[-1]["serves"] if lessons else BASE
    return Arm(
        trial=trial,
        base=mean_reward(base),
        gain=compare(rewards.get(last, ()), base),
        served=tuple(served_of(lessons, trial.flipped)),
        reasons=tuple("; ".join(one["reasons"]) for one in lessons),
        clean=run.clean,
        commit=code_version(),
    )


def served_of(lessons: Sequence[Mapping[str, Any]], flipped: Sequence[int]) -> Iterator[Served]:
    """Follow what served after each batch, against the best that had served until then."""
    rewards, served = rewards_of(lessons), [BASE]
    for lesson in lessons:
        version = lesson["serves"]
        served.append(version)
        best, opponent = _best_of(served, rewards)
        yield Served(
            batch=lesson["number"],
            flipped=lesson["number"] in flipped,
            decision=lesson["training"],
            version=version,
            reward=mean_reward(rewards.get(version, ())),
            best=best,
            difference=compare(rewards.get(version, ()), opponent),
        )


def _best_of(
    served: Sequence[str], rewards: Mapping[str, Rewards]
) -> tuple[tuple[str, str], Rewards]:
    """Return the best by either half of the questions, and what there is to be beaten on each.

    A best that was chosen by the numbers that it is compared by looks better than it is: so the
    best by one half is the one to beat on the other.
    """
    known = [name for name in dict.fromkeys(served) if name in rewards]
    if not known:
        return (BASE, BASE), ()
    first, second = (
        max(known, key=lambda name: mean_reward(rewards[name][half::2]) or 0.0) for half in (0, 1)
    )
    beaten = zip(rewards[second], rewards[first], strict=True)
    return (first, second), [pair[place % 2] for place, pair in enumerate(beaten)]


def compare(one: Rewards, other: Rewards) -> Difference | None:
    """Compare question by question, with a 95 % interval by bootstrap over questions; None where
    fewer than two were judged for both.
    """
    pairs = [a - b for a, b in zip(one, other, strict=False) if a is not None and b is not None]
    if len(pairs) < 2:  # noqa: PLR2004 - one has no spread
        return None
    chance = random.Random(_CHANCE)  # noqa: S311 - no secret
    means = [fmean(chance.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES)]
    cuts = quantiles(means, n=40, method="inclusive")
    return Difference(mean=fmean(pairs), low=cuts[0], high=cuts[-1], questions=len(pairs))


def judge(guarded: Arm, unguarded: Arm) -> list[Claim]:
    """Claim that the guard keeps what serves near its best, that there was something to keep it
    from, and that it let something better serve at all.
    """
    least = _FLIPPED_SHARE * _UPDATES
    kept, fell, gain = guarded.worst, unguarded.worst, guarded.gain
    return [
        Claim(
            f"versions were made from wrong labels: {guarded.flips} with a guard,"
            f" {unguarded.flips} without",
            min(guarded.flips, unguarded.flips) >= least,
        ),
        Claim(
            f"guarded: what served was at most {_ALLOWED:g} below the best before ({_told(kept)})",
            kept is not None and _mean(kept) >= -_ALLOWED,
        ),
        Claim(
            f"without a guard it was further below ({_told(fell)})",
            fell is not None and fell.difference is not None and _mean(fell) < -_ALLOWED,
        ),
        Claim(
            f"what the guard let serve last is better than the base model: {_interval(gain)}",
            gain is not None and gain.low > 0,
        ),
    ]


def _mean(one: Served) -> float:
    return one.difference.mean if one.difference else -1.0


def _told(one: Served | None) -> str:
    if one is None:
        return "nothing was measured"
    return f"{one.version} after batch {one.batch}: {_interval(one.difference)}"


def _interval(found: Difference | None) -> str:
    if found is None:
        return "not measured"
    return f"{found.mean:+.3f}, 95 % interval {found.low:+.3f} to {found.high:+.3f}"


def _whole(arms: Sequence[Arm]) -> list[Claim]:
    unmeasured = sum(
        one.difference is None or one.difference.questions < arm.trial.holdout
        for arm in arms
        for one in arm.served
    )
    made = [sum(one.decision in _MADE for one in arm.served) for arm in arms]
    return [
        Claim(f"each arm made versions: {made}", min(made) > 0),
        Claim(
            f"what served was judged on the whole holdout, but for {unmeasured} times",
            not unmeasured,
        ),
        Claim("each run's audit is clean", all(arm.clean for arm in arms)),
    ]


def _drawn(arms: Sequence[Arm]) -> str:
    curves = [
        Curve(
            name=arm.trial.arm,
            points=tuple(
                (update, reward)
                for update, reward in enumerate((arm.base, *(one.reward for one in arm.served)))
                if reward is not None
            ),
        )
        for arm in arms
    ]
    return picture("mean reward on the holdout of what serves, by update", curves)
