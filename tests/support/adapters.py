"""Adapters as PEFT writes them, packed, without torch: random weights for a small Llama."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

__all__ = ["lora_config", "packed", "random_adapter", "safetensors"]


def safetensors(tensors: Mapping[str, npt.NDArray[np.float32]]) -> bytes:
    """Return fp32 tensors in the format safetensors."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    body = b""
    for name in sorted(tensors):
        data = np.ascontiguousarray(tensors[name], dtype="<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [len(body), len(body) + len(data)],
        }
        body += data
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + body


def lora_config(rank: int, alpha: int, modules: tuple[str, ...], base: str = "") -> bytes:
    """Return PEFT's configuration of an adapter."""
    return json.dumps(
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": rank,
            "lora_alpha": alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": list(modules),
            "inference_mode": True,
        }
    ).encode()


def packed(files: Mapping[str, bytes]) -> bytes:
    """Return files as one archive, the same bytes for the same files."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(files[name]), 0o644
            archive.addfile(member, io.BytesIO(files[name]))
    return out.getvalue()


def random_adapter(
    seed: int, layers: int, hidden: int, rank: int = 8, scale: float = 0.02, base: str = ""
) -> bytes:
    """Return an adapter of q_proj's, every layer's, packed; `scale` is of its weights."""
    chance = np.random.default_rng(seed)
    tensors = {}
    for layer in range(layers):
        at = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        for part, shape in (("lora_A", (rank, hidden)), ("lora_B", (hidden, rank))):
            noise = chance.standard_normal(shape).astype(np.float32)
            tensors[f"{at}.{part}.weight"] = noise * np.float32(scale)
    return packed(
        {
            "adapter_config.json": lora_config(rank, 2 * rank, ("q_proj",), base),
            "adapter_model.safetensors": safetensors(tensors),
        }
    )
