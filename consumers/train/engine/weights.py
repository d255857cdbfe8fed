"""Writes what an update made: an adapter that PEFT and vLLM load, or a whole checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from consumers.train.engine.check import UnfitError
from consumers.train.engine.optimizer import whole
from consumers.train.engine.worker import Worker
from mia_events.learning.handover import Order
from mia_events.learning.job import Hyper

ADAPTER: Final = "adapter_model.safetensors"
ADAPTER_CONFIG: Final = "adapter_config.json"
CHECKPOINT: Final = "model.safetensors"
#: A checkpoint's weights, in whatever form; the rest of its folder goes along as it is.
_WEIGHTS: Final = (".safetensors", ".bin", ".pt", ".gguf", ".index.json")


def export(worker: Worker, folder: Path, order: Order) -> None:
    """Write weights in fp32, and no path or time: equal weights are equal files."""
    found, config = worker.engine.get_per_tensor_param(base_sync_done=True)
    first = dist.get_rank() == 0
    tensors = {}
    for name, tensor in found:
        full = whole(tensor)  # every process takes part, one keeps it
        if first:
            tensors[name] = full.float()
    if not first:
        return
    folder.mkdir(parents=True)
    if config is None:
        _write_checkpoint(folder, tensors, Path(order.model))
    else:
        save_file(tensors, folder / ADAPTER, {"format": "pt"})
        text = json.dumps(_adapter_config(order, config), indent=2, sort_keys=True)
        (folder / ADAPTER_CONFIG).write_text(f"{text}\n")


def check_parent(folder: Path, hyper: Hyper) -> None:
    """Refuse to go on from an adapter of another shape.

    Raises:
        UnfitError: its rank or scale is not the job's.
    """
    found = json.loads((folder / ADAPTER_CONFIG).read_text())
    there, here = (found["r"], found["lora_alpha"]), (hyper.lora_rank, hyper.lora_alpha)
    if there != here:
        what = f"the parent's adapter has rank and alpha {there}, the job asks for {here}"
        raise UnfitError(f"{what}: a run keeps them from its first version on")


def _adapter_config(order: Order, config: dict[str, Any]) -> dict[str, Any]:
    """Return what a loader needs. PEFT's own dump names the base by its folder, as it lay here."""
    return {
        "base_model_name_or_path": order.job.model,
        "bias": "none",
        "inference_mode": True,
        "lora_alpha": order.job.hyper.lora_alpha,
        "lora_dropout": 0.0,
        "peft_type": "LORA",
        "r": order.job.hyper.lora_rank,
        "target_modules": sorted(config["target_modules"]),
        "task_type": "CAUSAL_LM",
    }


def _write_checkpoint(folder: Path, tensors: dict[str, torch.Tensor], base: Path) -> None:
    for path in sorted(base.iterdir()):
        if path.is_file() and not path.name.endswith(_WEIGHTS):
            shutil.copyfile(path, folder / path.name)
    config = json.loads((folder / "config.json").read_text())
    if config.get("tie_word_embeddings"):
        tensors.pop("lm_head.weight", None)
    config["dtype"] = "float32"
    (folder / "config.json").write_text(f"{json.dumps(config, indent=2, sort_keys=True)}\n")
    save_file(tensors, folder / CHECKPOINT, {"format": "pt"})


__all__ = ["ADAPTER", "ADAPTER_CONFIG", "CHECKPOINT", "check_parent", "export"]
