"""What the registry keeps of a version beside its name and its artifacts."""

from __future__ import annotations

import msgspec

from mia_events.learning.job import Determinants, Trained, TrainJob


class VersionRecord(msgspec.Struct, frozen=True, kw_only=True):
    """How a version was made: its job without the rows, what determined its bits, its metrics by
    name, how long it took, and the `problems` of groups that were left out. The rows are made again
    from the ledger.
    """

    job: TrainJob
    determinants: Determinants
    metrics: dict[str, float]
    seconds: float
    problems: tuple[str, ...] = ()


def version_record(
    job: TrainJob, trained: Trained, metrics: dict[str, float], problems: tuple[str, ...] = ()
) -> bytes:
    """The record of an update, as JSON."""
    return msgspec.json.encode(
        VersionRecord(
            job=msgspec.structs.replace(job, rows=()),
            determinants=trained.determinants,
            metrics=metrics,
            seconds=trained.seconds,
            problems=problems,
        )
    )


__all__ = ["VersionRecord", "version_record"]
