"""An engine that stands in for verl's: a process that makes files which follow from its order.

Started as ``python fake_engine.py ENGINE FOLDER``: `launcher` writes what a trainer calls Python.
"""

from __future__ import annotations

import sys
import time
from hashlib import sha256
from pathlib import Path

import msgspec

from mia_events.learning.handover import OPTIMIZER, ORDER, OUTCOME, WEIGHTS, Made, Order
from mia_events.learning.job import Determinants
from ops.training.config import TrainerConfig

__all__ = ["config_of"]

_SECONDS = 1.5
_MACHINE = Determinants(
    cpu="scripted", device="cpu", threads=1, processes=1, builds={}, model_sha256=""
)


def config_of(folder: Path) -> TrainerConfig:
    """A machine whose engine is this module."""
    python = folder / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{__file__}" "$@"\n')
    python.chmod(0o755)
    return TrainerConfig(
        python=str(python), model=str(folder), folder=str(folder / "updates"), device="cpu",
        threads=1, processes=1, timeout_s=60.0,
    )  # fmt: skip


def _digest(order: Order) -> bytes:
    """What an update depends on: tokens and worth, not whose questions they were."""
    rows = [
        (row.token_ids, row.prompt_ids, row.logprobs, row.advantage, row.policy)
        for row in order.job.rows
    ]
    job = order.job
    whole = (job.policy, job.parent, job.hyper, job.seed, rows)
    return sha256(msgspec.json.encode(whole)).digest()


def _make(folder: Path) -> None:
    order = msgspec.json.decode((folder / ORDER).read_bytes(), type=Order)
    time.sleep(_SECONDS)
    (folder / WEIGHTS).mkdir(parents=True)
    (folder / WEIGHTS / "adapter_model.safetensors").write_bytes(_digest(order) * 64)
    (folder / OPTIMIZER).write_bytes(_digest(order)[::-1])
    made = Made(metrics={"loss": len(order.job.rows) / 1024}, determinants=_MACHINE)
    unseen = folder / f"{OUTCOME}.part"
    unseen.write_bytes(msgspec.json.encode(made, order="sorted"))
    unseen.rename(folder / OUTCOME)


if __name__ == "__main__":
    _make(Path(sys.argv[-1]))
