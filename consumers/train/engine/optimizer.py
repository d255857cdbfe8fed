"""The optimizer's state as a file: the same bytes for the same state, however many processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.tensor import DTensor, distribute_tensor

from consumers.train.engine.check import UnfitError
from consumers.train.engine.worker import Worker

_MOMENTS: Final = ("exp_avg", "exp_avg_sq")
_STEP: Final = "step"


def save(worker: Worker, path: Path) -> None:
    """Write AdamW's moments and steps by parameter, fp32. Every process has to take part."""
    state, first = worker.engine.optimizer.state, dist.get_rank() == 0
    tensors: dict[str, torch.Tensor] = {}
    for name, parameter in trained(worker):
        held = state[parameter]
        found = {_STEP: held[_STEP].cpu()} | {each: whole(held[each]) for each in _MOMENTS}
        if first:
            tensors |= {f"{name}.{each}": tensor for each, tensor in found.items()}
    if first:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path)


def restore(worker: Worker, path: Path) -> None:
    """Give each parameter the state that it had; the learning rate is the job's own.

    Raises:
        UnfitError: the file is of other parameters.
    """
    tensors = load_file(path)
    for name, parameter in trained(worker):
        worker.engine.optimizer.state[parameter] = {
            _STEP: _take(tensors, f"{name}.{_STEP}"),
            **{each: _spread(_take(tensors, f"{name}.{each}"), parameter) for each in _MOMENTS},
        }
    if tensors:
        raise UnfitError(f"the parent's optimizer state knows {min(tensors)}, the model does not")


def trained(worker: Worker) -> Iterator[tuple[str, Any]]:
    """Yield the parameters that an update changes, by name."""
    for name, parameter in worker.engine.module.named_parameters():
        if parameter.requires_grad:
            yield name, parameter


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor that may be spread over processes as one, on the CPU."""
    found = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return found.detach().cpu().contiguous()


def _take(tensors: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    try:
        return tensors.pop(name)
    except KeyError:
        raise UnfitError(f"the parent's optimizer state lacks {name}") from None


def _spread(tensor: torch.Tensor, parameter: Any) -> torch.Tensor:
    if tensor.shape != parameter.shape:
        shapes = f"{tuple(tensor.shape)}, the model's parameter {tuple(parameter.shape)}"
        raise UnfitError(f"the parent's optimizer state is of shape {shapes}")
    if not isinstance(parameter, DTensor):
        return tensor.to(parameter.device)
    mesh = parameter.device_mesh
    return distribute_tensor(tensor.to(mesh.device_type), mesh, parameter.placements)


__all__ = ["restore", "save", "trained", "whole"]
