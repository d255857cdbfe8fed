"""Whether a new planner version may serve: it is compared with the best one on anchors, questions
that are held back from training.

Both are measured in the same round: the same anchors, the same seeds, the same memories. Sources: a
margin on held-back questions is this project's; agreement and entropy are what collapses first in
majority-vote learning (TTRL, arXiv 2504.16084).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import fsum, inf, sqrt
from statistics import stdev
from typing import Annotated, Final, Literal

import msgspec

from mia_events.effects import RolloutTurns
from mia_events.learning.rewards import PARTS, Parts, Weights, parts_of, reward
from mia_events.scoring import normalise
from mia_events.trajectory import follow
from schemas.envelope import decode_payload

Share = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
_SHAPING: Final = ("format", "decision", "tool")
_PAIR: Final = 2


class Anchor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A held-back question, by its row of `source`. Its label is sealed like any other;
    `documents` is the content hash of passages of its own.
    """

    source: str
    row: str
    text: str
    documents: str | None = None


class GuardRules(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a version may lose.

    `rollouts` are run on each anchor. `margin`: of mean reward, against the best; `z`: how many
    standard errors of that difference must lie within the margin too. `agreement`: how
    much more alike the answers to one anchor may become while they do not become better. `entropy`:
    the least share of its parent's. `kl`: the most divergence from the base model, in nats a token.
    `load_s`: seconds after which a version that no server takes is no longer waited for.
    `shaping`: how much format, decision and tool may gain together while the final answer loses
    more than `margin`. `judged`: the least share of anchors that must be judged in both.
    """

    rollouts: Annotated[int, msgspec.Meta(ge=1)] = 2
    margin: Share = 0.05
    z: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    agreement: Share = 0.25
    load_s: Annotated[float, msgspec.Meta(gt=0.0)] = 3_600.0
    entropy: Share = 0.5
    kl: Annotated[float, msgspec.Meta(gt=0.0)] = 1.0
    shaping: Annotated[float, msgspec.Meta(ge=0.0)] = 0.05
    judged: Share = 0.5


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """A version on the anchors of a round.

    `rewards` by anchor, of those that were judged; `means` of the parts over judged rollouts;
    `agreement` the mean share of the commonest answer to an anchor; `entropy` the mean -log
    probability of a planner's token; `kl` from the base model, where the trainer measured it.
    """

    rewards: dict[str, float] = {}
    means: dict[str, float] = {}
    agreement: float | None = None
    entropy: float | None = None
    kl: float | None = None

    def told(self, name: str) -> dict[str, float]:
        """The numbers of an event, by names that begin with `name`."""
        known = {
            "reward": _mean(self.rewards.values()),
            **self.means,
            "agreement": self.agreement,
            "entropy": self.entropy,
            "kl": self.kl,
        }
        return {f"{name}.{key}": value for key, value in known.items() if value is not None}


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a candidate, and why.

    `rolled_back`: it is held back, and the version that serves gives way to the best. `best`: the
    candidate is the one to compare with from here on.
    """

    verdict: Literal["promoted", "held_back", "rolled_back"]
    reasons: tuple[str, ...]
    difference: float
    best: bool = False


def scores_of(
    rollouts: Mapping[str, Sequence[RolloutTurns]], weights: Weights, *, kl: float | None = None
) -> Scores:
    """Score a version by its ended rollouts on each anchor."""
    parts = {name: [parts_of(one) for one in group] for name, group in rollouts.items()}
    known = {
        name: [value for part in group if (value := reward(part, weights)) is not None]
        for name, group in parts.items()
    }
    judged = [part for group in parts.values() for part in group if part.final is not None]
    means = {name: _mean(_known(judged, name)) for name in PARTS}
    alike = (_agreement(group) for group in rollouts.values() if len(group) >= _PAIR)
    return Scores(
        rewards={name: fsum(values) / len(values) for name, values in known.items() if values},
        means={name: value for name, value in means.items() if value is not None},
        agreement=_mean(share for share in alike if share is not None),
        entropy=_mean(
            -value
            for group in rollouts.values()
            for one in group
            for turn in one.turns
            for value in turn.reply.logprobs
        ),
        kl=kl,
    )


def decide(
    candidate: Scores,
    best: Scores,
    served: Scores | None = None,
    *,
    rules: GuardRules,
    anchors: int,
) -> Decision:
    """Promote, hold back, or hold back and roll back. `served` is the candidate's parent where that
    is not the best itself; `anchors` is how many there are.

    A candidate that equals the best is promoted; one that is worse by more than the margin is not,
    nor one that may be by `z` standard errors. It becomes the best only when it is better by more
    than the margin: so chance cannot carry the bar down step by step.
    """
    pairs, difference = paired(candidate, best)
    if pairs < _fewest(rules, anchors):
        why = f"only {pairs} of {anchors} anchors were judged for both versions"
        return Decision(verdict="held_back", reasons=(why,), difference=difference)
    signs = _signs(candidate, best if served is None else served, rules)
    error = standard_error(candidate, best)
    if difference < -rules.margin:
        signs.insert(0, _below("the candidate", difference, pairs, rules))
    elif difference - rules.z * error < -rules.margin:
        signs.insert(0, _unsure(difference, error, pairs, rules))
    if not signs:
        return Decision(
            verdict="promoted",
            reasons=(f"{difference:+.3f} against the best on {pairs} anchors",),
            difference=difference,
            best=difference > rules.margin,
        )
    lost = fallen(best, served, rules=rules, anchors=anchors) if served is not None else ()
    return Decision(
        verdict="rolled_back" if lost else "held_back",
        reasons=(*signs, *lost),
        difference=difference,
    )


def paired(one: Scores, other: Scores) -> tuple[int, float]:
    """How many anchors were judged for both, and the mean difference of reward on those."""
    both = sorted(one.rewards.keys() & other.rewards.keys())
    differences = [one.rewards[name] - other.rewards[name] for name in both]
    return len(both), _mean(differences) or 0.0


def standard_error(one: Scores, other: Scores) -> float:
    """The standard error of the mean difference of reward on anchors judged for both, of which
    each is a draw; infinite where fewer than two were, unless they are equal.
    """
    both = one.rewards.keys() & other.rewards.keys()
    differences = [one.rewards[name] - other.rewards[name] for name in sorted(both)]
    if not any(differences):
        return 0.0
    return stdev(differences) / sqrt(len(both)) if len(both) >= _PAIR else inf


def _unsure(difference: float, error: float, pairs: int, rules: GuardRules) -> str:
    return (
        f"the candidate is {difference:+.3f} against the best on {pairs} anchors, give or take"
        f" {rules.z:g} x {error:.3f}: it may be more than {rules.margin:.3f} below"
    )


def fallen(best: Scores, served: Scores, *, rules: GuardRules, anchors: int) -> tuple[str, ...]:
    """Why the version that serves is to give way to the best, in words; empty while it need not."""
    pairs, difference = paired(served, best)
    if pairs < _fewest(rules, anchors) or difference >= -rules.margin:
        return ()
    return (_below("the version that serves", difference, pairs, rules),)


def _fewest(rules: GuardRules, anchors: int) -> float:
    return max(1.0, rules.judged * anchors)


def _below(who: str, difference: float, pairs: int, rules: GuardRules) -> str:
    return (
        f"{who} is {-difference:.3f} below the best on {pairs} anchors, "
        f"{rules.margin:.3f} are allowed"
    )


def _signs(candidate: Scores, parent: Scores, rules: GuardRules) -> list[str]:
    """What a mean reward does not show, each sign in words."""
    signs: list[str] = []
    final = _gain(candidate, parent, ("final",))
    if (
        candidate.agreement is not None
        and parent.agreement is not None
        and candidate.agreement - parent.agreement > rules.agreement
        and final <= 0
    ):
        signs.append(
            f"votes collapse: agreement rose from {parent.agreement:.2f} to "
            f"{candidate.agreement:.2f}, and the answers are no better"
        )
    if (
        candidate.entropy is not None
        and parent.entropy is not None
        and candidate.entropy < rules.entropy * parent.entropy
    ):
        signs.append(
            f"entropy is lost: {candidate.entropy:.3f} nats a token after {parent.entropy:.3f}"
        )
    if candidate.kl is not None and candidate.kl > rules.kl:
        signs.append(f"it is {candidate.kl:.3f} nats a token from the base, {rules.kl:g} allowed")
    shaping = _gain(candidate, parent, _SHAPING)
    if shaping > rules.shaping and final < -rules.margin:
        signs.append(
            f"it games the reward: form gained {shaping:.3f} while answers lost {-final:.3f}"
        )
    return signs


def _gain(candidate: Scores, parent: Scores, names: Iterable[str]) -> float:
    """By how much these parts rose together; one that is unknown on either side did not."""
    return fsum(
        candidate.means[name] - parent.means[name]
        for name in names
        if name in candidate.means and name in parent.means
    )


def _agreement(group: Sequence[RolloutTurns]) -> float | None:
    seen = (follow([decode_payload(bytes(body)) for body in one.history]) for one in group)
    answers = Counter(normalise(one.answer) for one in seen if one.answer is not None)
    return max(answers.values()) / answers.total() if answers.total() >= _PAIR else None


def _known(judged: Iterable[Parts], name: str) -> list[float]:
    return [value for parts in judged if (value := getattr(parts, name)) is not None]


def _mean(values: Iterable[float]) -> float | None:
    found = tuple(values)
    return fsum(found) / len(found) if found else None


__all__ = [
    "Anchor",
    "Decision",
    "GuardRules",
    "Scores",
    "decide",
    "fallen",
    "paired",
    "scores_of",
]
