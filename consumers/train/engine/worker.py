"""Builds verl's worker for an order: base model, parent's weights, optimizer, loss."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from verl.workers.config import (
    ActorConfig,
    FSDPEngineConfig,
    FSDPOptimizerConfig,
    HFModelConfig,
    TrainingWorkerConfig,
)
from verl.workers.engine_workers import TrainingWorker
from verl.workers.utils.losses import ppo_loss

from mia_events.learning.handover import PARENT_WEIGHTS, Order
from mia_events.learning.job import Hyper

Worker = Any  #: verl's TrainingWorker, which has no types


def build(folder: Path, order: Order, budget: int, *, base: bool = False) -> Worker:
    """Return a worker with the parent's weights (`base`: the base model's, to compare with).

    `budget` is the most tokens that go through the model at once. What is drawn at random, a new
    adapter's weights, is drawn from the job's seed.
    """
    hyper = order.job.hyper
    worker = TrainingWorker(
        TrainingWorkerConfig(
            model_type="language_model",
            model_config=_model(folder, order, base=base),
            engine_config=_engine(order, budget),
            optimizer_config=_optimizer(hyper),
            checkpoint_config=None,
        )
    )
    torch.manual_seed(order.job.seed)
    worker.reset()
    worker.set_loss_fn(partial(ppo_loss, config=_actor(hyper)))
    return worker


def _model(folder: Path, order: Order, *, base: bool) -> Any:
    hyper = order.job.hyper
    grown = bool(order.job.parent.adapter_sha256) and not base
    parent = str(folder / PARENT_WEIGHTS)
    flash = order.device == "cuda" and find_spec("flash_attn") is not None
    return HFModelConfig(
        path=parent if grown and not hyper.lora_rank else order.model,
        load_tokenizer=False,
        use_remove_padding=True,
        enable_gradient_checkpointing=order.device == "cuda",
        override_config={"attn_implementation": "flash_attention_2" if flash else "sdpa"},
        lora_rank=0 if base else hyper.lora_rank,
        lora_alpha=hyper.lora_alpha,
        target_modules="all-linear",
        lora_adapter_path=parent if grown and hyper.lora_rank else None,
    )


def _engine(order: Order, budget: int) -> Any:
    return FSDPEngineConfig(
        strategy="fsdp2",
        model_dtype="fp32",
        mixed_precision={
            "param_dtype": order.job.hyper.compute,
            "reduce_dtype": "fp32",
            "buffer_dtype": "fp32",
        },
        use_torch_compile=False,
        use_dynamic_bsz=True,
        max_token_len_per_gpu=budget,
        infer_max_token_len_per_gpu=budget,
    )


def _optimizer(hyper: Hyper) -> Any:
    return FSDPOptimizerConfig(
        lr=hyper.lr,
        weight_decay=hyper.weight_decay,
        clip_grad=hyper.max_grad_norm,
        lr_warmup_steps=0,
        total_training_steps=1,
        lr_scheduler_type="constant",
    )


def _actor(hyper: Hyper) -> Any:
    return ActorConfig(
        strategy="fsdp2",
        rollout_n=1,  # groups are known by their advantages already
        use_dynamic_bsz=True,
        clip_ratio=hyper.clip_high,
        clip_ratio_low=hyper.clip_low,
        clip_ratio_high=hyper.clip_high,
        clip_ratio_c=hyper.clip_dual,
        loss_agg_mode=hyper.aggregate,
        entropy_coeff=hyper.entropy,
        use_kl_loss=hyper.kl > 0.0,
        kl_loss_coef=hyper.kl,
        kl_loss_type="low_var_kl",
        use_torch_compile=False,
    )


__all__ = ["Worker", "build"]
