"""Jobs for a tiny model, artifacts in a folder, and a process that makes one update.

`python -m tests.support.updates FOLDER` reads `FOLDER/job.json` (as `write` leaves it) and writes
`FOLDER/trained.json`: for tests that kill the process that trains.
"""

import asyncio
import random
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from mia_events.learning.job import Hyper, Parent, Row, Trained, TrainJob
from ops.environments import find_train_environment, train_folder
from ops.training.process import Launch
from ops.training.trainer import EngineTrainer, Machine
from tests.support.tiny_llama import VOCABULARY

__all__ = ["HYPER", "FolderArtifacts", "job", "next_job", "python", "rows", "trainer", "write"]

#: Small in every respect, quick to show an effect, with each correction on.
HYPER = Hyper(lr=1e-3, lora_rank=4, lora_alpha=8, importance=2.0, row_tokens=64)


class FolderArtifacts:
    """The `Artifacts` port over one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    async def put(self, data: bytes) -> str:
        name = sha256(data).hexdigest()
        (self.folder / name).write_bytes(data)
        return name

    async def get(self, sha256: str) -> bytes:
        path = self.folder / sha256
        if not path.exists():
            raise LookupError(f"no artifact {sha256}")
        return path.read_bytes()


class _Work(msgspec.Struct):
    job: TrainJob
    model: str


def python() -> Path:
    """Return the train environment's Python, or skip."""
    found = find_train_environment(train_folder())
    if found is None:
        pytest.skip(f"no train environment in {train_folder()}: run `make env-train`")
    return found


def rows(seed: int, groups: int = 2, policy: str = "base") -> tuple[Row, ...]:
    """Return made-up turns of groups of four, half of each better than the other."""
    chance = random.Random(seed)
    return tuple(
        Row(
            question=UUID(int=group),
            rollout=rollout,
            step="plan",
            policy=policy,
            prompt_ids=_ids(chance, 5, 20),
            token_ids=(answer := _ids(chance, 3, 12)),
            logprobs=tuple(-8 * chance.random() for _ in answer),
            reward=float(rollout % 2),
            advantage=(-0.866, 0.866)[rollout % 2],
        )
        for group in range(groups)
        for rollout in range(4)
    )


def _ids(chance: random.Random, least: int, most: int) -> tuple[int, ...]:
    return tuple(chance.randrange(VOCABULARY) for _ in range(chance.randint(least, most)))


def job(hyper: Hyper = HYPER, seed: int = 1) -> TrainJob:
    """Return the job of a first version."""
    return TrainJob(
        policy="planner@v1", model="tiny", parent=Parent(), hyper=hyper, seed=seed, rows=rows(seed)
    )


def next_job(trained: Trained, hyper: Hyper = HYPER, seed: int = 2) -> TrainJob:
    """Return the job of a second version, upon a first."""
    parent = Parent(
        policy="planner@v1",
        adapter_sha256=trained.adapter_sha256,
        optimizer_sha256=trained.optimizer_sha256,
    )
    policy = "planner@v2"
    found = rows(seed, policy="planner@v1")
    return TrainJob(policy=policy, model="tiny", parent=parent, hyper=hyper, seed=seed, rows=found)


def trainer(folder: Path, model: Path, *, keep: bool = False, **launch: Any) -> EngineTrainer:
    """Return a trainer on two threads, with its artifacts below `folder`."""
    how = Launch(python(), **launch)
    machine = Machine(launch=how, model=model, folder=folder / "jobs", threads=2, keep=keep)
    return EngineTrainer(machine, FolderArtifacts(folder / "artifacts"))


def write(folder: Path, work: TrainJob, model: Path) -> None:
    """Lay out what `python -m tests.support.updates` reads."""
    (folder / "job.json").write_bytes(msgspec.json.encode(_Work(work, str(model))))


def main(arguments: Sequence[str]) -> None:
    """Make the update of a folder."""
    folder = Path(arguments[0])
    work = msgspec.json.decode((folder / "job.json").read_bytes(), type=_Work)
    trained = asyncio.run(trainer(folder, Path(work.model)).train(work.job))
    (folder / "trained.json").write_bytes(msgspec.json.encode(trained))


if __name__ == "__main__":
    main(sys.argv[1:])
