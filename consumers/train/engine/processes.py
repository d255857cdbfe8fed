"""Joins the processes of one update, before anything of verl is loaded that asks where it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist

from consumers.train.engine.cpu_platform import register
from mia_events.learning.handover import MEETING, Order

_MEETING_LIMIT: Final = timedelta(minutes=10)


@contextmanager
def joined(folder: Path, order: Order) -> Iterator[None]:
    """Join the processes of this update, and fix what else decides bits."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    torch.set_num_threads(order.threads)
    torch.set_num_interop_threads(1)
    # Some of a GPU's kernels have no fixed order of summation: there it is done as far as it goes.
    torch.use_deterministic_algorithms(mode=True, warn_only=order.device == "cuda")
    if order.device == "cpu":
        register()
    else:
        torch.cuda.set_device(rank % torch.cuda.device_count())
    dist.init_process_group(
        "gloo" if order.device == "cpu" else "cpu:gloo,cuda:nccl",
        store=dist.FileStore(str(folder / MEETING), world) if world > 1 else dist.HashStore(),
        rank=rank,
        world_size=world,
        timeout=_MEETING_LIMIT,
    )
    yield
    dist.destroy_process_group()  # not after an error: the others would be waited for


__all__ = ["joined"]
