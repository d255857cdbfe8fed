"""Seals of batches from which no version was made."""

from __future__ import annotations

import msgspec

from schemas.events import LearnerSealed, LearnerUntrained


class Looked(msgspec.Struct, frozen=True, kw_only=True):
    """What a guard found of the version that serves: `scores` by name, `reasons` in words and the
    `best` version.
    """

    scores: dict[str, float]
    reasons: tuple[str, ...]
    best: str


def seal_of(told: LearnerUntrained, policy: str, looked: Looked | None = None) -> LearnerSealed:
    """The seal after which `policy` serves; without `looked`, nobody looked at it."""
    return LearnerSealed(
        number=told.number,
        generation=told.generation,
        training=told.training,
        policy=policy,
        problem=told.problem,
        metrics=told.metrics,
        scores=looked.scores if looked else {},
        reasons=looked.reasons if looked else (),
        best=looked.best if looked else "",
    )


__all__ = ["Looked", "seal_of"]
