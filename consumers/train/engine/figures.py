"""Figures of an update, by the names that reports use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist

from mia_events.learning.job import Row

_NAMES: Final = {
    "actor/pg_loss": "pg_loss",
    "actor/ppo_kl": "approx_kl",
    "actor/pg_clipfrac": "clip_fraction",
    "actor/pg_clipfrac_lower": "clip_fraction_dual",
    "actor/entropy_loss": "entropy_full",
    "kl_loss": "kl_loss",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "lr": "lr",
}


def told_by_verl(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return verl's metrics by our names, each the mean over passes and parts."""
    return {ours: _mean(metrics[theirs]) for theirs, ours in _NAMES.items() if theirs in metrics}


@dataclass(frozen=True)
class Tokens:
    """Log-probabilities of tokens that train, (tokens,): the trainer's before the step, the
    samplers', and the base model's where there was need of it.
    """

    old: torch.Tensor
    sampled: torch.Tensor
    base: torch.Tensor | None

    @classmethod
    def of(cls, batch: Any) -> Tokens:
        """Take them from a batch."""
        counted = batch["response_mask"].values().bool()
        base = batch["ref_log_prob"].values()[counted] if "ref_log_prob" in batch else None
        old, sampled = (batch[name].values()[counted] for name in ("old_log_probs", "sampled"))
        return cls(old, sampled, base)


def figures_of(rows: Sequence[Row], seen: Sequence[Tokens]) -> dict[str, float]:
    """Return what the log-probabilities before the step say, over all processes' tokens.

    `entropy` is the mean of -log p over the sampled tokens; `ess` the effective sample size of the
    samplers' tokens under the parent, as a share: (sum w)^2 / (n sum w^2) of w = p_parent /
    p_sampler. `kl_parent` is the divergence of the parent from the base model.
    """
    old, gap = _flat([each.old for each in seen]), _flat([each.old - each.sampled for each in seen])
    ratio = gap.clamp(-20.0, 20.0).exp()
    sums = [torch.ones_like(gap), -old, gap.abs(), ratio, ratio**2]
    if any(each.base is not None for each in seen):
        sums.append(_k3(old, _flat([each.base for each in seen if each.base is not None])))
    tokens, surprise, gaps, first, second, *k3 = _total([each.sum() for each in sums])
    return {
        "rows": float(len(rows)),
        "tokens": tokens,
        "truncated": float(sum(row.status == "truncated" for row in rows)),
        "entropy": surprise / tokens,
        "sampler_gap_mean": gaps / tokens,
        "sampler_gap_max": _highest(gap.abs()),
        "ess": min(1.0, first**2 / (tokens * second)),  # rounding apart, it is at most that
        **({"kl_parent": k3[0] / tokens} if k3 else {}),
    }


def divergence(batch: Any, found: torch.Tensor) -> float:
    """Return how far log-probabilities of a batch's answers, (tokens of all rows,), are from the
    base model's, over all processes' tokens that train.
    """
    counted = batch["response_mask"].values().bool()
    one, base = found[counted].cpu(), batch["ref_log_prob"].values()[counted].cpu()
    total, tokens = _total([_k3(one, base).sum(), counted.sum()])
    return total / tokens


def _k3(one: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Schulman's estimate k3 of KL(one || base) by tokens, (tokens,) nats: r - 1 - log r of
    r = p_base / p_one (http://joschu.net/blog/kl-approx.html).
    """
    log = base - one
    return log.exp() - log - 1.0


def _flat(parts: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat(parts).cpu()


def _total(values: list[torch.Tensor]) -> list[float]:
    total = torch.stack([value.double() for value in values])
    dist.all_reduce(total)
    return [float(value) for value in total]


def _highest(values: torch.Tensor) -> float:
    highest = values.max() if len(values) else torch.zeros(())
    dist.all_reduce(highest, dist.ReduceOp.MAX)
    return float(highest)


def _mean(value: Any) -> float:
    values = value if isinstance(value, list) else [value]
    flat = [_mean(each) if isinstance(each, list) else float(each) for each in values]
    return sum(flat) / len(flat)


__all__ = ["Tokens", "divergence", "figures_of", "told_by_verl"]
