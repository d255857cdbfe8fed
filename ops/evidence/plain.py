"""Asks plain PyTorch, in the train environment, what it makes of a finished job."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

from ops.installing import FOREIGN_PROCESS

__all__ = ["Comparison", "compared"]

_PROGRAM = Path(__file__).with_name("plain_grpo.py")


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """How far an engine's numbers are from plain PyTorch's, beside two that need no engine.

    `sampler_gap_*` is how far the samplers' log-probabilities are from PyTorch's; `gradient_worst`
    relates to the largest of each tensor, `weights_worst` and the others are absolute.
    `divergence_gap` is of the new version's from the base model; 0 where it is not measured.
    """

    loss: float
    loss_gap: float
    sampler_gap_max: float
    sampler_gap_mean: float
    gradient_worst: float
    gradient_tensors: int
    weights_worst: float
    divergence_gap: float


def compared(python: Path, folder: Path) -> Comparison:
    """Repeat the update of a job's folder by plain PyTorch.

    Raises:
        CalledProcessError: it failed; its errors went where ours go.
    """
    output = subprocess.run(
        [str(python), str(_PROGRAM), str(folder)],
        check=True,
        stdout=subprocess.PIPE,
        env={**FOREIGN_PROCESS, "OMP_WAIT_POLICY": "PASSIVE"},
    ).stdout
    return msgspec.json.decode(output.splitlines()[-1], type=Comparison)
