"""Runs in the serve environment: adapters on a mixed batch, by vLLM with our plug-in and by a loop.

Prints as JSON who applies adapters, and the largest difference for tokens with an adapter and
without one: in layers, and in the logits.
"""

import json
import sys

import torch
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper import get_punica_wrapper

_IDS, _RANK, _INPUTS, _SLICES, _SCALE = [11, 12, 13], 4, 24, (16, 8), 2.0
_WORDS = 50


def _applied(
    mapping: list[int], x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float
) -> torch.Tensor:
    """What the adapters add, token by token."""
    none = torch.zeros(b.shape[2])
    return torch.stack(
        [
            scale * (b[_IDS.index(one), 0] @ (a[_IDS.index(one), 0] @ row)) if one else none
            for one, row in zip(mapping, x, strict=True)
        ]
    )


def _batch(mapping: list[int], prompts: list[int]) -> tuple[float, float]:
    """How far a batch is from the loop: its layers, its logits."""
    wrapper = get_punica_wrapper(64, 16, "cpu", max_loras=len(_IDS))
    wrapper.update_metadata(
        LoRAMapping(tuple(mapping), tuple(prompts), is_prefill=True), list(_IDS), len(_IDS), _WORDS
    )
    a = [torch.randn(len(_IDS), 1, _RANK, _INPUTS) for _ in _SLICES]
    b = [torch.randn(len(_IDS), 1, size, _RANK) for size in _SLICES]
    x, y = torch.randn(len(mapping), _INPUTS), torch.randn(len(mapping), sum(_SLICES))
    parts = [_applied(mapping, x, *pair, _SCALE) for pair in zip(a, b, strict=True)]
    expected = y + torch.cat(parts, dim=1)
    wrapper.add_lora_linear(y, x, tuple(a), tuple(b), _SCALE, _SLICES)
    words = torch.randn(len(_IDS), 1, _WORDS, _RANK)
    last, logits = torch.randn(len(prompts), _INPUTS), torch.randn(len(prompts), _WORDS)
    due = logits + _applied(prompts, last, a[0], words, 1.0)
    wrapper.add_lora_logits(logits, last, a[0], words, 1.0)
    return float((y - expected).abs().max()), float((logits - due).abs().max())


def main() -> None:
    """Compare all kinds of batches."""
    torch.manual_seed(0)
    wrapper = get_punica_wrapper(64, 16, "cpu", max_loras=len(_IDS))
    batches = {
        "one adapter": ([12] * 9, [12]),
        "one at the end": ([0] * 5 + [13] * 4, [0, 13]),
        "scattered": ([13, 0, 11, 0, 13, 12], [13, 0, 11, 0, 13, 12]),
        "none, with every slot in use": ([0] * 6, [0, 0]),
    }
    apart = {name: _batch(*batch) for name, batch in batches.items()}
    sys.stdout.write(json.dumps({"wrapper": type(wrapper).__name__, "apart": apart}) + "\n")


if __name__ == "__main__":
    main()
