"""What decides the bits of an update, beside its job."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Final

import torch

from mia_events.learning.handover import Order
from mia_events.learning.job import Determinants

_BUILDS: Final = ("numpy", "peft", "safetensors", "tensordict", "transformers", "verl")


def determinants(order: Order, world: int) -> Determinants:
    """Describe this process, its libraries and the base model's weights."""
    builds = {name: version(name) for name in _BUILDS}
    return Determinants(
        cpu=f"{_cpu()} ({torch.backends.cpu.get_cpu_capability()})",
        device="cpu" if order.device == "cpu" else torch.cuda.get_device_name(),
        threads=order.threads,
        processes=world,
        token_budget=order.token_budget,
        builds={"python": platform.python_version(), "torch": str(torch.__version__), **builds},
        model_sha256=_sha256(Path(order.model)),
    )


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else ():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _sha256(model: Path) -> str:
    """Hash the configuration and the weights, each by its name."""
    total = hashlib.sha256()
    for path in sorted([model / "config.json", *model.glob("*.safetensors")]):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{path.name} {found}\n".encode())
    return total.hexdigest()


__all__ = ["determinants"]
