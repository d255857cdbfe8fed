"""The update itself: from an order to files and figures."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
import torch.distributed as dist

from consumers.train.engine import optimizer, weights
from consumers.train.engine.batch import Batch, batch_of, budget_of, like, share_of
from consumers.train.engine.check import UnfitError
from consumers.train.engine.determinants import determinants
from consumers.train.engine.figures import divergence, figures_of
from consumers.train.engine.passes import correct, log_probs, step
from consumers.train.engine.worker import Worker, build
from consumers.train.points import point
from mia_events.learning.handover import (
    OPTIMIZER,
    PARENT_OPTIMIZER,
    PARENT_WEIGHTS,
    WEIGHTS,
    Made,
    Order,
)
from mia_events.learning.job import Row

_KIB_PER_GIB: Final = 1 << 20


def update(folder: Path, order: Order) -> Made:
    """Make the update that an order asks for; its files lie in the folder when this returns.

    Raises:
        UnfitError: the parent does not fit the job, or the gradient is no finite number.
    """
    clock, world = _Clock(), dist.get_world_size()
    worker = _load(folder, order)
    point("after_load")
    clock("load")
    metrics = _train(folder, order, worker, clock)
    point("before_export")
    weights.export(worker, folder / WEIGHTS, order)
    optimizer.save(worker, folder / OPTIMIZER)
    point("after_export")
    clock("export")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_GIB
    metrics |= clock.seconds | {"peak_rss_gib": peak}
    if order.device == "cuda":
        metrics["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return Made(metrics=metrics, determinants=determinants(order, world))


def _load(folder: Path, order: Order) -> Worker:
    job = order.job
    if job.parent.adapter_sha256 and job.hyper.lora_rank:
        weights.check_parent(folder / PARENT_WEIGHTS, job.hyper)
    worker = build(folder, order, budget_of(job.rows, order.token_budget))
    if job.parent.optimizer_sha256:
        optimizer.restore(worker, folder / PARENT_OPTIMIZER)
    _refuse_unknown_tokens(worker, job.rows)
    return worker


def _train(
    folder: Path, order: Order, worker: Worker, clock: Callable[[str], None]
) -> dict[str, float]:
    job = order.job
    batch = batch_of(share_of(job.rows, dist.get_rank(), dist.get_world_size()))
    if job.hyper.kl or job.hyper.epochs > 1:
        _look_back(folder, order, worker, batch)
        clock("log_probs")
    before = [whole.clone() for whole in _local(worker)]
    told, seen = step(worker, batch, job)
    if not told["grad_norm"] < float("inf"):
        raise UnfitError(f"the gradient's norm is {told['grad_norm']}: no step was made")
    clock("update")
    told["update_norm"] = _distance(before, _local(worker))
    if job.hyper.kl:
        told["kl_base"] = divergence(batch, log_probs(worker, batch))
        clock("divergence")
    return figures_of(job.rows, seen[: len(seen) // job.hyper.epochs]) | told


def _look_back(folder: Path, order: Order, worker: Worker, batch: Batch) -> None:
    """Put the log-probabilities before the step into the batch, and the base model's.

    The policy's come first: FSDP decides at the first forward pass what is reduced, and would find
    nothing to train if the adapter were off.
    """
    batch["old_log_probs"] = like(log_probs(worker, batch), batch)
    correct(batch, order.job.hyper)
    if not order.job.hyper.kl:
        return
    if order.job.hyper.lora_rank:
        base = log_probs(worker, batch, adapter=False)
    else:
        budget = budget_of(order.job.rows, order.token_budget)
        base = log_probs(build(folder, order, budget, base=True), batch)
    batch["ref_log_prob"] = like(base, batch)


def _refuse_unknown_tokens(worker: Worker, rows: Sequence[Row]) -> None:
    known = worker.engine.module.config.vocab_size
    highest = max(max(*row.prompt_ids, *row.token_ids) for row in rows)
    if highest >= known:
        raise UnfitError(f"token {highest}, and the model knows {known}: another model sampled it")


def _local(worker: Worker) -> list[torch.Tensor]:
    """Return this process's part of what is trained."""
    parameters = (parameter.detach() for _, parameter in optimizer.trained(worker))
    return [each.to_local() if hasattr(each, "to_local") else each for each in parameters]


def _distance(before: list[torch.Tensor], after: list[torch.Tensor]) -> float:
    """Return the length of the step, over all processes."""
    squares = [((b - a) ** 2).sum() for b, a in zip(before, after, strict=True)]
    total = torch.stack(squares).sum()
    dist.all_reduce(total)
    return float(total.sqrt())


class _Clock:
    """Seconds between calls, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[f"seconds_{name}"] = now - self._last
        self._last = now


__all__ = ["update"]
