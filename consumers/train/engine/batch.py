"""Rows as the tensors that verl takes: packed, without padding, one row per planner turn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import torch
from verl.utils import tensordict_utils as tensors

from mia_events.learning.job import Row

Batch = Any  #: a TensorDict of jagged tensors


class Share(msgspec.Struct, frozen=True):
    """One process's part: the first `counted` of `rows` train, the rest fill up to equal parts."""

    rows: tuple[Row, ...]
    counted: int


def share_of(rows: Sequence[Row], rank: int, world: int) -> Share:
    """Deal the rows out in turns. verl wants parts of equal length, so the last ones may get a
    copy of the shortest row, which is masked and weighs nothing.
    """
    mine = tuple(rows[rank::world])
    short = -(-len(rows) // world) - len(mine)
    return Share((*mine, *(min(rows, key=_length),) * short), len(mine))


def budget_of(rows: Iterable[Row], asked: int) -> int:
    """Return how many tokens go through the model at once: at least the longest row."""
    return max(asked, *map(_length, rows))


def batch_of(share: Share) -> Batch:
    """Return the rows as jagged tensors, (rows, tokens of each)."""
    lengths = [_length(row) for row in share.rows]
    mask = jagged([[int(n < share.counted)] * len(r.token_ids) for n, r in enumerate(share.rows)])
    return tensors.get_tensordict(
        {
            "input_ids": jagged([row.prompt_ids + row.token_ids for row in share.rows]),
            "position_ids": jagged([range(length) for length in lengths]),
            "prompts": jagged([row.prompt_ids for row in share.rows]),
            "responses": jagged([row.token_ids for row in share.rows]),
            "response_mask": mask,
            "loss_mask": mask,
        }
    )


def sampled(share: Share) -> torch.Tensor:
    """Return the samplers' log-probabilities, (tokens of all rows,) fp32."""
    return torch.tensor([each for row in share.rows for each in row.logprobs], dtype=torch.float32)


def advantages(share: Share) -> torch.Tensor:
    """Return each token's advantage, that of its rollout, (tokens of all rows,) fp32."""
    return torch.tensor(
        [row.advantage for row in share.rows for _ in row.token_ids], dtype=torch.float32
    )


def counted(share: Share) -> torch.Tensor:
    """Return which tokens train, (tokens of all rows,) of bool."""
    return torch.tensor(
        [n < share.counted for n, row in enumerate(share.rows) for _ in row.token_ids]
    )


def jagged(rows: Sequence[Sequence[int]]) -> torch.Tensor:
    """Return a jagged tensor of whole numbers."""
    return torch.nested.as_nested_tensor([torch.tensor(row) for row in rows], layout=torch.jagged)


def like(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return flat values as jagged as the batch's answers are."""
    return torch.nested.nested_tensor_from_jagged(values, batch["response_mask"].offsets())


def _length(row: Row) -> int:
    return len(row.prompt_ids) + len(row.token_ids)


__all__ = [
    "Batch",
    "Share",
    "advantages",
    "batch_of",
    "budget_of",
    "counted",
    "jagged",
    "like",
    "sampled",
    "share_of",
]
