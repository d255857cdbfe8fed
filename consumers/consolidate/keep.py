"""Which rollouts of a question become memories, and the credit of the memories they used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal
from uuid import UUID

import msgspec

from mia_events.trajectory import Trajectory
from schemas.events import MemoryUse


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The rollouts kept: at most one success and one failure."""

    success: Trajectory | None = None
    failure: Trajectory | None = None

    @property
    def items(self) -> tuple[tuple[Literal["success", "failure"], Trajectory], ...]:
        """Those there are, the success first."""
        found: list[tuple[Literal["success", "failure"], Trajectory]] = []
        if self.success is not None:
            found.append(("success", self.success))
        if self.failure is not None:
            found.append(("failure", self.failure))
        return tuple(found)


def keep(trajectories: Sequence[Trajectory], chance: int) -> Kept:
    """The success with the fewest turns (then the lowest number), and one of the failures.

    The seeded number `chance` says which. Rollouts without a grade count for neither.
    """
    right, wrong = _right(trajectories), _wrong(trajectories)
    return Kept(
        success=min(right, key=lambda one: (one.turns, one.number), default=None),
        failure=wrong[chance % len(wrong)] if wrong else None,
    )


def credits_of(trajectories: Sequence[Trajectory]) -> tuple[MemoryUse, ...]:
    """One credit for every memory that a graded rollout planned with.

    It won when most of those rollouts succeeded. Memories of failures get none: that a question
    went well says nothing of a warning, and that it went badly does not either.
    """
    right, wrong = (_users(group) for group in (_right(trajectories), _wrong(trajectories)))
    return tuple(
        MemoryUse(memory=memory, won=right[memory] > wrong[memory]) for memory in right | wrong
    )


def _right(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    return [one for one in trajectories if one.grade == "correct"]


def _wrong(trajectories: Sequence[Trajectory]) -> list[Trajectory]:
    return [one for one in trajectories if one.grade in ("incorrect", "not_attempted")]


def _users(trajectories: Sequence[Trajectory]) -> Counter[UUID]:
    """How many rollouts used each memory that tells of a success."""
    used = (set(one.memories) - set(one.warnings) for one in trajectories)
    return Counter(memory for one in used for memory in sorted(one))


__all__ = ["Kept", "credits_of", "keep"]
