"""What the registry keeps of a version beside its name and its artifacts."""

from __future__ import annotations

import msgspec

from mia_events.learning.job import Determinants, Trained, TrainJob


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a version was made: its job without the rows, what determined its bits, its metrics by
    name, and how long it took. The rows are made again from the ledger.
    """

    job: TrainJob
    determinants: Determinants
    metrics: dict[str, float]
    seconds: float


def version_record(job: TrainJob, trained: Trained, metrics: dict[str, float]) -> bytes:
    """The record of an update, as JSON."""
    return msgspec.json.encode(
        VersionRecord(
            job=msgspec.structs.replace(job, rows=()),
            determinants=trained.determinants,
            metrics=metrics,
            seconds=trained.seconds,
        )
    )


__all__ = ["VersionRecord", "version_record"]
