"""Seals of batches from which no version was made."""

from __future__ import annotations

from schemas.events import LearnerSealed, LearnerUntrained


def seal_of(told: LearnerUntrained) -> LearnerSealed:
    """The seal after which the same version serves; what a guard found is not in it yet."""
    return LearnerSealed(
        number=told.number,
        generation=told.generation,
        training=told.training,
        policy=told.policy,
        problem=told.problem,
        metrics=told.metrics,
    )


__all__ = ["seal_of"]
