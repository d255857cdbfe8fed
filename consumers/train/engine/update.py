"""The update itself: old log-probabilities, corrections, one pass of verl's GRPO loss, files."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
from verl.utils import tensordict_utils as tensors
from verl.workers.utils.padding import response_from_nested

from consumers.train.engine import optimizer, weights
from consumers.train.engine.batch import (
    Batch,
    Share,
    advantages,
    batch_of,
    budget_of,
    counted,
    like,
    sampled,
    share_of,
)
from consumers.train.engine.check import UnfitError
from consumers.train.engine.determinants import determinants
from consumers.train.engine.figures import figures_of, told_by_verl
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
from mia_events.learning.job import Hyper, Row

#: What verl asks of every batch; a training run samples at temperature 1.
_PLAIN: Final[dict[str, Any]] = {"temperature": 1.0, "pad_token_id": 0}
_KIB_PER_GIB: Final = 1 << 20


def update(folder: Path, order: Order) -> Made:
    """Make the update that an order asks for; its files lie in the folder when this returns.

    Raises:
        UnfitError: the parent does not fit the job, or the gradient is no finite number.
    """
    clock, rank, world = _Clock(), dist.get_rank(), dist.get_world_size()
    worker = _load(folder, order)
    point("after_load")
    clock("load")
    metrics = _train(folder, order, worker, share_of(order.job.rows, rank, world), clock)
    point("before_export")
    weights.export(worker, folder / WEIGHTS, order)
    optimizer.save(worker, folder / OPTIMIZER)
    point("after_export")
    clock("export")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _KIB_PER_GIB
    metrics |= clock.seconds | {"peak_rss_gib": peak}
    return Made(metrics=metrics, determinants=determinants(order, world))


def _load(folder: Path, order: Order) -> Worker:
    job = order.job
    if job.parent.adapter_sha256 and job.hyper.lora_rank:
        weights.check_parent(folder / PARENT_WEIGHTS, job.hyper)
    worker = build(folder, order, budget_of(job.rows, order.token_budget))
    if job.parent.optimizer_sha256:
        optimizer.restore(worker, folder / PARENT_OPTIMIZER)
    return worker


def _train(
    folder: Path, order: Order, worker: Worker, share: Share, clock: Callable[[str], None]
) -> dict[str, float]:
    hyper, batch = order.job.hyper, batch_of(share)
    _refuse_unknown_tokens(worker, order.job.rows)
    # The policy's first: FSDP decides at the first forward pass what is reduced, and would find
    # nothing to train if the adapter were off.
    old = _log_probs(worker, batch)
    base = _of_base(folder, order, worker, batch) if hyper.kl else None
    point("after_log_probs")
    clock("log_probs")
    before = [whole.clone() for whole in _local(worker)]
    told = _step(worker, _filled(batch, share, old, base, hyper), len(order.job.rows), hyper, order)
    if not told["grad_norm"] < float("inf"):
        raise UnfitError(f"the gradient's norm is {told['grad_norm']}: no step was made")
    clock("update")
    return figures_of(order.job.rows, counted(share), old, sampled(share), base) | {
        **told,
        "update_norm": _distance(before, _local(worker)),
    }


def _log_probs(worker: Worker, batch: Batch, *, adapter: bool = True) -> torch.Tensor:
    """Return the log-probabilities of the answers' tokens, (tokens of all rows,) fp32."""
    asked = batch.copy()
    tensors.assign_non_tensor(
        asked, compute_loss=False, calculate_entropy=False, no_lora_adapter=not adapter, **_PLAIN
    )
    found = tensors.get(worker.infer_batch(asked), "log_probs")
    return response_from_nested(found, batch["response_mask"]).values().float()


def _of_base(folder: Path, order: Order, worker: Worker, batch: Batch) -> torch.Tensor:
    """Return the same under the base model: with the adapter off, or by a worker of its own."""
    if order.job.hyper.lora_rank:
        return _log_probs(worker, batch, adapter=False)
    budget = budget_of(order.job.rows, order.token_budget)
    return _log_probs(build(folder, order, budget, base=True), batch)


def _filled(
    batch: Batch, share: Share, old: torch.Tensor, base: torch.Tensor | None, hyper: Hyper
) -> Batch:
    filled = batch.copy()
    filled["old_log_probs"] = like(old, batch)
    filled["advantages"] = like(advantages(share), batch)
    if base is not None:
        filled["ref_log_prob"] = like(base, batch)
    if hyper.importance:
        ratios, _ = compute_rollout_correction_weights(
            log_ratio=(old - sampled(share))[None],
            response_mask=counted(share)[None].float(),
            rollout_is="token",
            rollout_is_threshold=hyper.importance,
        )
        filled["rollout_is_weights"] = like(ratios[0], batch)
    return filled


def _step(worker: Worker, batch: Batch, rows: int, hyper: Hyper, order: Order) -> dict[str, float]:

    tensors.assign_non_tensor(
        batch,
        global_batch_size=rows,
        mini_batch_size=batch.shape[0] * dist.get_world_size(),
        epochs=hyper.epochs,
        seed=order.job.seed,
        dataloader_kwargs={"shuffle": False},
        calculate_entropy=bool(hyper.entropy),
        **_PLAIN,
    )
    _watch(worker)
    return told_by_verl(tensors.get(worker.train_mini_batch(batch), "metrics"))


def _watch(worker: Worker) -> None:
    """Pass the points that lie inside verl's pass."""
    loss = worker.loss_fn

    def watched(*arguments: object, **named: object) -> object:
        point("after_forward")
        return loss(*arguments, **named)

    worker.set_loss_fn(watched)
    worker.engine.optimizer.register_step_pre_hook(lambda *_: point("after_backward"))


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
    squares = sum(((b - a) ** 2).sum() for b, a in zip(before, after, strict=True))
    total = torch.as_tensor(squares)
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
