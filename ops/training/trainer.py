"""The trainer's port: a job becomes a folder, a process, and artifacts."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import tempfile
import time
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from consumers.train.packing import pack, unpack
from consumers.train.points import point
from mia_events.learning.handover import (
    OPTIMIZER,
    ORDER,
    OUTCOME,
    PARENT_OPTIMIZER,
    PARENT_WEIGHTS,
    WEIGHTS,
    Made,
    Order,
    Outcome,
    Unfit,
)
from mia_events.learning.job import Trained, TrainJob
from mia_events.steps import Poison
from ops.training.process import Launch, run
from storage.ports import Artifacts

__all__ = ["EngineTrainer", "Machine"]


@dataclass(frozen=True)
class Machine:
    """What updates are made on. `model` is the folder of the base model's checkpoint.

    `folder` is where jobs lie while they are worked on, and stay if they are to be kept. `threads`
    and `token_budget` decide the bits of a version and the memory of an update.
    """

    launch: Launch
    model: Path
    folder: Path
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    token_budget: int = 0
    keep: bool = False


class EngineTrainer:
    """Makes updates by the engine, one at a time."""

    def __init__(self, machine: Machine, artifacts: Artifacts) -> None:
        self._machine = machine
        self._artifacts = artifacts
        self._turn = asyncio.Lock()

    async def train(self, job: TrainJob) -> Trained:
        """See the port."""
        async with self._turn:
            began = time.monotonic()
            folder = await asyncio.to_thread(self._make_folder)
            try:
                return await self._train(job, folder, began)
            finally:
                if not self._machine.keep:
                    await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    async def _train(self, job: TrainJob, folder: Path, began: float) -> Trained:
        await self._lay_out(job, folder)
        await run(self._machine.launch, folder)
        made = await asyncio.to_thread(_outcome, folder)
        adapter = await self._artifacts.put(await asyncio.to_thread(_packed, folder / WEIGHTS))
        optimizer = await self._artifacts.put(
            await asyncio.to_thread((folder / OPTIMIZER).read_bytes)
        )
        point("after_artifacts")
        return Trained(
            adapter_sha256=adapter,
            optimizer_sha256=optimizer,
            metrics=made.metrics,
            determinants=made.determinants,
            seconds=time.monotonic() - began,
        )

    def _make_folder(self) -> Path:
        """Make a folder of our own, and remove those of processes of this host that were killed:
        others may share the place.
        """
        folder = self._machine.folder
        folder.mkdir(parents=True, exist_ok=True)
        ours = f"update-{platform.node()}-"
        for left in () if self._machine.keep else folder.glob(f"{escape(ours)}*-*"):
            pid, _, rest = left.name.removeprefix(ours).partition("-")
            # A longer name with more in it may be another host's, of which ours is the beginning.
            if pid.isdecimal() and "-" not in rest and not psutil.pid_exists(int(pid)):
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(dir=folder, prefix=f"{ours}{os.getpid()}-"))

    async def _lay_out(self, job: TrainJob, folder: Path) -> None:
        """Write the order and what it goes on from."""
        machine = self._machine
        order = Order(
            job=job,
            model=str(machine.model),
            device=machine.device,
            threads=machine.threads,
            token_budget=machine.token_budget,
        )
        files = {ORDER: msgspec.json.encode(order)}
        if sha := job.parent.adapter_sha256:
            parts = unpack(await self._parent(job, sha))
            files |= {f"{PARENT_WEIGHTS}/{name}": data for name, data in parts.items()}
        if sha := job.parent.optimizer_sha256:
            files[PARENT_OPTIMIZER] = await self._parent(job, sha)
        await asyncio.to_thread(_write, folder, files)

    async def _parent(self, job: TrainJob, sha256: str) -> bytes:
        try:
            return await self._artifacts.get(sha256)
        except (LookupError, ValueError) as error:
            raise Poison(f"{job.policy} goes on from {job.parent.policy}: {error}") from error


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def _packed(folder: Path) -> bytes:
    return pack({path.name: path.read_bytes() for path in folder.iterdir()})


def _outcome(folder: Path) -> Made:
    outcome: Outcome = msgspec.json.decode((folder / OUTCOME).read_bytes(), type=Outcome)
    if isinstance(outcome, Unfit):
        raise Poison(f"the job cannot be trained: {outcome.why}")
    return outcome
