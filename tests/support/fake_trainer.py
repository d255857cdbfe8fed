"""A trainer whose artifacts are a pure function of the job: equal jobs, equal SHAs."""

from hashlib import sha256

import msgspec

from mia_events.learning.job import Determinants, Trained, TrainJob

__all__ = ["FakeTrainer", "trained_by"]

_MACHINE = Determinants(
    cpu="scripted", device="cpu", threads=1, processes=1, builds={}, model_sha256=""
)


def trained_by(job: TrainJob) -> Trained:
    """What a job comes to."""
    digest = sha256(msgspec.json.encode(job)).hexdigest()
    return Trained(
        adapter_sha256=sha256(f"adapter {digest}".encode()).hexdigest(),
        optimizer_sha256=sha256(f"optimizer {digest}".encode()).hexdigest(),
        metrics={"loss": len(job.rows) / 1024},
        determinants=_MACHINE,
        seconds=0.0,
    )


class FakeTrainer:
    """The `Trainer` port; keeps the jobs that it was given."""

    def __init__(self) -> None:
        self.jobs: list[TrainJob] = []

    async def train(self, job: TrainJob) -> Trained:
        """See the port."""
        self.jobs.append(job)
        return trained_by(job)
