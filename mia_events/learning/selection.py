"""Which groups an update is made from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol
from uuid import UUID

import msgspec

from mia_events.learning.versions import BASE
from schemas.events import Event, LearnerSealed, LearnerTrained


class Graded(Protocol):
    """A group that no update has used: its place in the run, and the version that wrote its
    plans.
    """

    @property
    def question(self) -> UUID:
        """The group's question."""
        ...

    @property
    def position(self) -> int:
        """Its place in the run."""
        ...

    @property
    def policy(self) -> str:
        """The version that its rollouts were sampled from."""
        ...


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """The questions to train from and those that are too old and stay memory only, by position."""

    chosen: tuple[UUID, ...] = ()
    stale: tuple[UUID, ...] = ()


def select(
    groups: Iterable[Graded], *, lineage: Sequence[str], staleness: int, limit: int | None = None
) -> Selection:
    """The first `limit` groups by position whose version is at most `staleness` updates old.

    `lineage` is the chain of versions from the base to the one that is trained next. A version
    beside it, such as one that was rolled back, is too old whenever it was made.
    """
    ages = {policy: age for age, policy in enumerate(reversed(lineage))}
    ordered = sorted(groups, key=lambda one: one.position)
    fresh = [one for one in ordered if ages.get(one.policy, staleness + 1) <= staleness]
    kept = {one.question for one in fresh}
    return Selection(
        chosen=tuple(one.question for one in fresh[:limit]),
        stale=tuple(one.question for one in ordered if one.question not in kept),
    )


def lineage_of(history: Iterable[Event], policy: str) -> tuple[str, ...]:
    """The chain of parents from the base to `policy`, by the learner's own events.

    Raises `LookupError` for a version that none of them made.
    """
    parents = {event.policy: event.parent for event in history if isinstance(event, LearnerTrained)}
    chain = [policy]
    while chain[-1] != BASE:
        if chain[-1] not in parents:
            raise LookupError(f"this run never made version {chain[-1]}")
        chain.append(parents[chain[-1]])
    return tuple(reversed(chain))


def best_of(history: Sequence[Event], policy: str) -> str:
    """The best version so far among `policy` and its ancestors, as guards have said: an operator
    may have gone back behind it. Without a guard's word it is the base model.
    """
    sealed = (event for event in reversed(history) if isinstance(event, LearnerSealed))
    named = next((event.best for event in sealed if event.best), BASE)
    return named if named in lineage_of(history, policy) else policy


__all__ = ["Graded", "Selection", "best_of", "lineage_of", "select"]
