"""A batch of groups becomes what one update is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import fsum
from typing import Final

import msgspec

from mia_events.effects import GroupView
from mia_events.learning.advantages import advantages
from mia_events.learning.job import Hyper, Row
from mia_events.learning.rewards import PARTS, WEIGHTS, Parts, Weights, parts_of, reviewed, reward
from mia_events.learning.rows import Sample, UntrainableTurn, rows_of

_LEAST: Final = 2


class Prepared(msgspec.Struct, frozen=True, kw_only=True):
    """The rows of a batch, by position, rollout and turn, and what became of its groups.

    `trained` groups have rows. `flat` ones have rewards that are all equal, `small` ones fewer than
    two judged rollouts; neither has anything to learn from. `unjudged` counts rollouts without a
    reward. `means` are the mean reward and the means of its known parts over judged rollouts.
    `problems` tell of groups with a turn that cannot be a row: they count nowhere else.
    """

    rows: tuple[Row, ...]
    trained: int
    flat: int
    small: int
    unjudged: int
    means: dict[str, float]
    problems: tuple[str, ...] = ()

    @property
    def problem(self) -> str:
        """Why there is nothing to train from; empty when there is."""
        if self.rows:
            return ""
        if not self.flat + self.small:
            return "the batch has no groups"
        return (
            f"nothing to compare: {self.flat} groups with equal rewards, "
            f"{self.small} with fewer than {_LEAST} judged rollouts"
        )


class _Group(msgspec.Struct, frozen=True):
    view: GroupView
    parts: Mapping[int, Parts]
    rewards: Mapping[int, float]

    @property
    def whole(self) -> bool:
        return len(self.rewards) >= _LEAST

    @property
    def flat(self) -> bool:
        return len(set(self.rewards.values())) == 1


def prepare(groups: Sequence[GroupView], *, weights: Weights, hyper: Hyper) -> Prepared:
    """Reward, compare and cut into rows; a turn that cannot be one costs its group, not the batch.

    A group that reviewers graded, since its label never came, is rewarded as one without a label,
    unless the weights were chosen.
    A flat group has a gradient only where divergence or entropy count: else it is left out.
    """
    regular = bool(hyper.kl or hyper.entropy)
    graded: list[_Group] = []
    problems: list[str] = []
    rows: list[tuple[_Group, tuple[Row, ...]]] = []
    for view in sorted(groups, key=lambda one: one.position):
        group = _graded(view, weights)
        try:
            if group.whole and (regular or not group.flat):
                rows.append((group, _rows(group, hyper)))
        except UntrainableTurn as error:
            problems.append(str(error))
        else:
            graded.append(group)
    if all(group.flat for group, _ in rows):
        rows = []
    return Prepared(
        rows=tuple(row for _, found in rows for row in found),
        trained=len(rows),
        flat=sum(group.flat for group in graded if group.whole),
        small=sum(not group.whole for group in graded),
        unjudged=sum(len(group.parts) - len(group.rewards) for group in graded),
        means=_means(graded),
        problems=tuple(problems),
    )


def _graded(view: GroupView, weights: Weights) -> _Group:
    parts = {rollout.number: parts_of(rollout) for rollout in view.rollouts}
    if weights == WEIGHTS["supervised"] and any(map(reviewed, view.rollouts)):
        weights = WEIGHTS["unsupervised"]
    rewards = {number: reward(part, weights) for number, part in parts.items()}
    return _Group(view, parts, {n: value for n, value in rewards.items() if value is not None})


def _rows(group: _Group, hyper: Hyper) -> tuple[Row, ...]:
    values = advantages(tuple(group.rewards.values()), normalise=hyper.normalise)
    samples = {
        number: Sample(worth, advantage)
        for (number, worth), advantage in zip(group.rewards.items(), values, strict=True)
    }
    return rows_of(group.view, samples, row_tokens=hyper.row_tokens)


def _means(graded: Sequence[_Group]) -> dict[str, float]:
    rewards = [value for group in graded for value in group.rewards.values()]
    judged = [group.parts[number] for group in graded for number in group.rewards]
    columns = {"reward": rewards, **{name: _known(judged, name) for name in PARTS}}
    return {name: fsum(values) / len(values) for name, values in columns.items() if values}


def _known(judged: Sequence[Parts], name: str) -> list[float]:
    return [value for parts in judged if (value := getattr(parts, name)) is not None]


__all__ = ["Prepared", "prepare"]
