"""Which rollouts of a question become memories, and the credit of the memories they used."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Literal
from uuid import UUID

import msgspec

from mia_events.trajectory import Trajectory
from schemas.events import MemoryUse


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The rollouts kept: at most one success and one failure. `won`: most judged ones succeeded."""

    success: Trajectory | None = None
    failure: Trajectory | None = None
    won: bool = False

    @property
    def items(self) -> tuple[tuple[Literal["success", "failure"], Trajectory], ...]:
        """Those there are, the success first."""
        found: list[tuple[Literal["success", "failure"], Trajectory]] = []
        if self.success is not None:
            found.append(("success", self.success))
        if self.failure is not None:
            found.append(("failure", self.failure))
        return tuple(found)

    @property
    def uses(self) -> tuple[MemoryUse, ...]:
        """One credit for every memory that a kept rollout planned with."""
        used = (memory for _, one in self.items for memory in one.memories)
        return tuple(MemoryUse(memory=memory, won=self.won) for memory in _once(used))


def keep(trajectories: Sequence[Trajectory], chance: int) -> Kept:
    """The success with the fewest turns (then the lowest number), and one of the failures.

    The seeded number `chance` says which. Rollouts without a grade count for neither.
    """
    right = [one for one in trajectories if one.grade == "correct"]
    wrong = [one for one in trajectories if one.grade in ("incorrect", "not_attempted")]
    return Kept(
        success=min(right, key=lambda one: (one.turns, one.number), default=None),
        failure=wrong[chance % len(wrong)] if wrong else None,
        won=len(right) > len(wrong),
    )


def dedupe_key(question: str, outcome: str) -> str:
    """SHA-256 (hex) of a question, whatever its letter case and spacing, with an outcome."""
    text = " ".join(unicodedata.normalize("NFKC", question).casefold().split())
    return sha256(f"{text}\x1f{outcome}".encode()).hexdigest()


def _once(memories: Iterable[UUID]) -> tuple[UUID, ...]:
    return tuple(dict.fromkeys(memories))


__all__ = ["Kept", "dedupe_key", "keep"]
