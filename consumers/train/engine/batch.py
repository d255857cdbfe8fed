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
    """Return the rows as jagged tensors, (rows, tokens of each). `sampled` are log-probabilities
    as the samplers told them; a token's advantage is that of its rollout.
    """
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
            "sampled": jagged([row.logprobs for row in share.rows], torch.float32),
            "advantages": jagged(
                [(row.advantage,) * len(row.token_ids) for row in share.rows], torch.float32
            ),
        }
    )


def jagged(rows: Sequence[Sequence[float]], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Return rows as one jagged tensor."""
    return torch.nested.as_nested_tensor(
        [torch.tensor(row, dtype=dtype) for row in rows], layout=torch.jagged
    )


def like(values: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return flat values as jagged as the batch's answers are."""
    # Not from the offsets: a part of a batch remembers the longest row of the whole.
    lengths = batch["response_mask"].offsets().diff().tolist()
    return torch.nested.as_nested_tensor(list(values.split(lengths)), layout=torch.jagged)


def _length(row: Row) -> int:
    return len(row.prompt_ids) + len(row.token_ids)


__all__ = [
    "Batch",
    "Share",
    "batch_of",
    "budget_of",
    "jagged",
    "like",
    "share_of",
]
