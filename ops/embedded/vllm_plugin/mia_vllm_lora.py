"""Applies LoRA adapters to the tokens of a batch, on a CPU.

vLLM's own class for CPUs copies an adapter's matrices once for each token, which takes several
times as long as the model itself, and seconds for a long prompt. And it reads a token without an
adapter, whose slot is -1, as one of the last slot: as soon as every slot has been in use, requests
for the base model that share a batch with an adapter's are answered by that slot's weights. Here
the tokens of an adapter are multiplied with it together, and those without one are left alone.
"""

from collections.abc import Sequence
from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

__all__ = ["GroupedLora", "groups_of"]

_Rows = Any  #: a slice, or the numbers of rows
_Groups = Sequence[tuple[int, _Rows]]


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc] # vLLM has no types here
    """vLLM's class for CPUs, but for the multiplications. Shapes: inputs (tokens, features), an
    adapter's matrices by slot (slots, 1, outputs, inputs).
    """

    _tokens: _Groups = ()
    _samples: _Groups = ()

    def update_metadata(self, *args: object, **kwargs: object) -> None:
        """See vLLM: a step begins; which slot each token and each sampled position has."""
        super().update_metadata(*args, **kwargs)
        self._tokens = groups_of(self.token_lora_indices)
        self._samples = groups_of(self.sampler_indices)

    def _apply_shrink(
        self, y: torch.Tensor, x: torch.Tensor, w_t_all: torch.Tensor, scale: float
    ) -> None:
        out = y.view(-1, y.shape[-1])
        for slot, rows in self._tokens:
            out[rows] = scale * (x[rows].to(out.dtype) @ _matrix(w_t_all, slot, out).T)

    def _apply_expand(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        w_t_all: torch.Tensor,
        y_offset: int,
        y_slice_size: int,
        add_inputs: bool = True,  # noqa: FBT001, FBT002 - vLLM's signature
    ) -> None:
        out = y.view(-1, y.shape[-1])[:, y_offset : y_offset + y_slice_size]
        for slot, rows in self._tokens:
            added = x[rows].to(out.dtype) @ _matrix(w_t_all, slot, out).T
            out[rows] = out[rows] + added if add_inputs else added

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: object,
    ) -> None:
        """See vLLM: the same for the positions that are sampled from."""
        out, inputs = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._samples:
            shrunk = scale * (inputs[rows].to(out.dtype) @ _matrix(lora_a_stacked, slot, out).T)
            added = shrunk @ _matrix(lora_b_stacked, slot, out).T
            common = min(added.shape[1], out.shape[1])
            out[rows, :common] += added[:, :common]


def groups_of(slots: torch.Tensor) -> _Groups:
    """Return the rows of each slot in use; -1 is no slot."""
    used = torch.unique(slots).tolist()
    if len(used) == 1:
        return [(used[0], slice(None))] if used[0] >= 0 else []
    return [(slot, _rows(slots == slot)) for slot in used if slot >= 0]


def _rows(mask: torch.Tensor) -> _Rows:
    """Rows that lie together are looked at in place, others are gathered."""
    rows = mask.nonzero().squeeze(1)
    first, last = int(rows[0]), int(rows[-1])
    return slice(first, last + 1) if last - first + 1 == len(rows) else rows


def _matrix(stacked: torch.Tensor, slot: int, like: torch.Tensor) -> torch.Tensor:
    return stacked[slot].view(stacked.shape[-2:]).to(like.dtype)
