"""Who makes an update: the port between the train stage and an engine in its own environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mia_events.learning.job import Trained, TrainJob


class Trainer(Protocol):
    """Makes updates. Cancelled, it ends what it started.

    Raises `Poison` for a job that can never succeed, `Transient` or `Late` for one that may.
    """

    async def train(self, job: TrainJob) -> Trained:
        """Make the update; its artifacts are durable when this returns."""
        ...


__all__ = ["Trainer"]
