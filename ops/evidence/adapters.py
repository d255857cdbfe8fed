"""Adapters with random weights, packed as a trainer packs its own: versions without a trainer."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from consumers.train.packing import pack
from ops.serving.weights import Array, write_weights

__all__ = ["lora_config", "random_adapter", "safetensors", "shapes_of"]

#: Of a small model for tests: one layer's projection.
TINY: Final = {"self_attn.q_proj": (4, 4)}


def shapes_of(model: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """Return how many layers a Llama has, and the shapes (out, in) of a layer's projections."""
    config = json.loads((model / "config.json").read_text())
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head = hidden // config["num_attention_heads"]
    narrow = head * config["num_key_value_heads"]
    return config["num_hidden_layers"], {
        "self_attn.q_proj": (hidden, hidden),
        "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden),
        "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (inner, hidden),
        "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner),
    }


def random_adapter(
    seed: int,
    layers: int = 1,
    shapes: Mapping[str, tuple[int, int]] = TINY,
    *,
    rank: int = 8,
    scale: float = 0.02,
) -> bytes:
    """Return an adapter of these projections in every layer; `scale` is of its weights."""
    chance = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        for name, (out, into) in shapes.items():
            at = f"base_model.model.model.layers.{layer}.{name}"
            for part, shape in (("lora_A", (rank, into)), ("lora_B", (out, rank))):
                noise = chance.standard_normal(shape).astype(np.float32)
                tensors[f"{at}.{part}.weight"] = noise * np.float32(scale)
    return pack(
        {
            "adapter_config.json": lora_config(rank, 2 * rank, [n.split(".")[1] for n in shapes]),
            "adapter_model.safetensors": safetensors(tensors),
        }
    )


def safetensors(tensors: Mapping[str, Array]) -> bytes:
    """Return a file of tensors."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights"
        write_weights(path, {n: v.shape for n, v in tensors.items()}, tensors.__getitem__)
        return path.read_bytes()


def lora_config(rank: int, alpha: int, modules: Sequence[str]) -> bytes:
    """Return PEFT's configuration of an adapter."""
    return json.dumps(
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": "",
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": sorted(modules),
            "inference_mode": True,
        }
    ).encode()
