"""What a trainer is given and what it gives back: one GRPO update of one planner version."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

import msgspec

Positive = Annotated[float, msgspec.Meta(gt=0.0)]
Status = Literal["complete", "truncated"]


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One planner turn, token for token as it was sampled.

    `prompt_ids` (p,) and `token_ids` (t,) are vocabulary indices, `logprobs` (t,) natural
    logarithms under the version `policy` that sampled them; p + t fits the row limit. The advantage
    is that of the rollout and holds for each of its tokens.
    """

    question: UUID
    rollout: int
    step: Literal["plan", "reflect", "replan"]
    policy: str
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    reward: float
    advantage: float
    status: Status = "complete"


class Hyper(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an update is made; the defaults are those of the published system where it has one.

    `clip_low`, `clip_high` and `clip_dual` bound the policy ratio; `kl` weighs the divergence from
    the base model (0: none); `aggregate` averages over all tokens or over rows first; `importance`
    corrects token by token for rows sampled by another version, up to that ratio (0: no
    correction). `lora_rank` 0 trains every weight. `compute` is the type of the forward pass, the
    master weights are fp32. `row_tokens` is the most that a row may hold.
    """

    lr: Positive = 1e-6
    weight_decay: float = 0.01
    max_grad_norm: Positive = 1.0
    clip_low: Positive = 0.2
    clip_high: Positive = 0.2
    clip_dual: Positive = 3.0
    kl: float = 0.0
    entropy: float = 0.0
    aggregate: Literal["token-mean", "seq-mean-token-mean"] = "token-mean"
    normalise: bool = True
    importance: float = 0.0
    epochs: Annotated[int, msgspec.Meta(ge=1)] = 1
    lora_rank: Annotated[int, msgspec.Meta(ge=0)] = 16
    lora_alpha: Annotated[int, msgspec.Meta(ge=1)] = 32
    compute: Literal["fp32", "bf16"] = "fp32"
    row_tokens: Annotated[int, msgspec.Meta(ge=16)] = 512


class Parent(msgspec.Struct, frozen=True, kw_only=True):
    """The version to start from, by the SHA-256 of its artifacts; empty for the base model."""

    policy: str = "base"
    adapter_sha256: str = ""
    optimizer_sha256: str = ""


class TrainJob(msgspec.Struct, frozen=True, kw_only=True):
    """One update. Equal jobs on equal machines give equal bits."""

    policy: str  #: the version that it makes
    model: str  #: the base model, as its servers call it
    parent: Parent
    hyper: Hyper
    seed: int
    rows: tuple[Row, ...]


class Determinants(msgspec.Struct, frozen=True, kw_only=True):
    """What decides the bits of an update, beside its job."""

    cpu: str
    device: str
    threads: int
    processes: int
    token_budget: int = 0  #: asked for at once; 0: the longest row
    builds: dict[str, str]  #: version by package
    model_sha256: str  #: of the base model's weights


class Trained(msgspec.Struct, frozen=True, kw_only=True):
    """An update's artifacts, durable when this is returned, and its metrics by name."""

    adapter_sha256: str
    optimizer_sha256: str
    metrics: dict[str, float]
    determinants: Determinants
    seconds: float


__all__ = ["Determinants", "Hyper", "Parent", "Row", "Status", "TrainJob", "Trained"]
