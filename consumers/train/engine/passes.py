"""Passes through the model: log-probabilities of what was sampled, and the step of verl's loss."""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.distributed as dist
from verl.trainer.ppo.rollout_corr_helper import compute_rollout_correction_weights
from verl.utils import tensordict_utils as tensors
from verl.workers.utils.padding import response_from_nested

from consumers.train.engine.batch import Batch, like
from consumers.train.engine.figures import Tokens, told_by_verl
from consumers.train.engine.worker import Worker
from consumers.train.points import point
from mia_events.learning.job import Hyper, TrainJob

#: What verl asks of every batch; a training run samples at temperature 1.
_PLAIN: Final[dict[str, Any]] = {"temperature": 1.0, "pad_token_id": 0}


def log_probs(worker: Worker, batch: Batch, *, adapter: bool = True) -> torch.Tensor:
    """Return the log-probabilities of the answers' tokens, (tokens of all rows,) fp32."""
    asked = batch.copy()
    tensors.assign_non_tensor(
        asked, compute_loss=False, calculate_entropy=False, no_lora_adapter=not adapter, **_PLAIN
    )
    return _of_answers(tensors.get(worker.infer_batch(asked), "log_probs"), batch)


def step(worker: Worker, batch: Batch, job: TrainJob) -> tuple[dict[str, float], list[Tokens]]:
    """Run verl's loss over the batch, and its optimizer; return its figures, and the tokens seen.

    Where the batch has no old log-probabilities, those of the first pass are: nothing has changed
    since. So a job of one epoch needs no pass before, and its old ones are the same bits.
    """
    seen: list[Tokens] = []
    tensors.assign_non_tensor(
        batch,
        global_batch_size=len(job.rows),
        mini_batch_size=batch.shape[0] * dist.get_world_size(),
        epochs=job.hyper.epochs,
        seed=job.seed,
        dataloader_kwargs={"shuffle": False},
        calculate_entropy=bool(job.hyper.entropy),
        **_PLAIN,
    )
    _watch(worker, job.hyper, seen)
    return told_by_verl(tensors.get(worker.train_mini_batch(batch), "metrics")), seen


def correct(batch: Batch, hyper: Hyper) -> None:
    """Put the truncated ratios of trainer to sampler into a batch that has the trainer's part."""
    if not hyper.importance:
        return
    gap = batch["old_log_probs"].values() - batch["sampled"].values()
    ratios, _ = compute_rollout_correction_weights(
        log_ratio=gap[None],
        response_mask=torch.ones_like(gap)[None],
        rollout_is="token",
        rollout_is_threshold=hyper.importance,
    )
    batch["rollout_is_weights"] = like(ratios[0], batch)


def _watch(worker: Worker, hyper: Hyper, seen: list[Tokens]) -> None:
    """Look at each pass between its forward and its backward half, and at the step's begin."""
    loss = worker.loss_fn

    def watched(model_output: Batch, data: Batch, **named: object) -> object:
        point("after_forward")
        if "old_log_probs" not in data:
            data["old_log_probs"] = like(_of_answers(model_output["log_probs"], data), data)
            correct(data, hyper)
        seen.append(Tokens.of(data))
        return loss(model_output=model_output, data=data, **named)

    worker.set_loss_fn(watched)
    worker.engine.optimizer.register_step_pre_hook(lambda *_: point("after_backward"))


def _of_answers(found: torch.Tensor, batch: Batch) -> torch.Tensor:
    return response_from_nested(found, batch["response_mask"]).values().detach().float()


__all__ = ["correct", "log_probs", "step"]
