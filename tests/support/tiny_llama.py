"""A Llama of two layers and few tokens as a checkpoint folder, its weights drawn from a seed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

__all__ = ["VOCABULARY", "write_tiny_llama"]

VOCABULARY: Final = 256
_HIDDEN, _INNER, _LAYERS, _HEADS, _KEYS = 64, 128, 2, 4, 2
_SPREAD: Final = 0.2  # wide enough for tokens of very different likelihood


def write_tiny_llama(folder: Path, seed: int = 0, vocabulary: int = VOCABULARY) -> Path:
    """Write the checkpoint into a new folder and return it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(_config(vocabulary)))
    chance = np.random.default_rng(seed)
    tensors = {name: _drawn(chance, name, shape) for name, shape in _shapes(vocabulary)}
    (folder / "model.safetensors").write_bytes(_safetensors(tensors))
    return folder


def _config(vocabulary: int) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": _HIDDEN,
        "intermediate_size": _INNER,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "num_key_value_heads": _KEYS,
        "max_position_embeddings": 1_024,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "dtype": "float32",
    }


def _shapes(vocabulary: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    narrow = _HIDDEN * _KEYS // _HEADS
    yield "model.embed_tokens.weight", (vocabulary, _HIDDEN)
    yield "model.norm.weight", (_HIDDEN,)
    for layer in range(_LAYERS):
        prefix = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"{prefix}.{norm}.weight", (_HIDDEN,)
        for part, rows in (("q", _HIDDEN), ("k", narrow), ("v", narrow), ("o", _HIDDEN)):
            yield f"{prefix}.self_attn.{part}_proj.weight", (rows, _HIDDEN)
        yield f"{prefix}.mlp.gate_proj.weight", (_INNER, _HIDDEN)
        yield f"{prefix}.mlp.up_proj.weight", (_INNER, _HIDDEN)
        yield f"{prefix}.mlp.down_proj.weight", (_HIDDEN, _INNER)


def _drawn(chance: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if "norm" in name:
        return np.ones(shape, np.float32)
    return (chance.standard_normal(shape) * _SPREAD).astype(np.float32)


def _safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """Return the file: the length of the header, the header, the tensors one after the other."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name, tensor in tensors.items():
        end = begin + tensor.nbytes
        header[name] = {"dtype": "F32", "shape": tensor.shape, "data_offsets": (begin, end)}
        begin = end
    text = json.dumps(header).encode()
    return b"".join(
        (len(text).to_bytes(8, "little"), text, *(t.tobytes() for t in tensors.values()))
    )
