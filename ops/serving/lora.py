"""What a version does to the base model's weights. An adapter adds to them, W + alpha / r * B A, a
checkpoint takes their place; all in fp32.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import numpy as np

from ops.serving.weights import Array, Weights

__all__ = ["Adapter", "Checkpoint", "distance", "opened"]

_ADAPTER_CONFIG: Final = "adapter_config.json"
_PREFIX: Final = "base_model.model."
_A: Final = ".lora_A.weight"
_B: Final = ".lora_B.weight"
_WEIGHT: Final = ".weight"


class _Config(msgspec.Struct):
    """The keys of PEFT's configuration that change what an adapter does."""

    r: Annotated[int, msgspec.Meta(ge=1)]
    lora_alpha: float
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    rank_pattern: dict[str, Any] = {}
    alpha_pattern: dict[str, Any] = {}
    modules_to_save: list[str] | None = None


class Adapter:
    """An unpacked adapter, by the names of the weights that it changes."""

    def __init__(self, folder: Path) -> None:
        """Open it. Raises `ValueError` for one that does more than LoRA does."""
        config = msgspec.json.decode((folder / _ADAPTER_CONFIG).read_bytes(), type=_Config)
        special = (config.use_dora, config.fan_in_fan_out, config.rank_pattern)
        if any(special) or config.alpha_pattern or config.modules_to_save:
            raise ValueError(f"{folder.name} is no plain LoRA adapter: it cannot be merged here")
        root = math.sqrt(config.r) if config.use_rslora else config.r
        self._scale = np.float32(config.lora_alpha / root)
        self._weights = Weights(folder / "adapter_model.safetensors")

    @property
    def names(self) -> frozenset[str]:
        """The weights that it changes, as the base model calls them."""
        return frozenset(
            name.removeprefix(_PREFIX).removesuffix(_A) + _WEIGHT
            for name in self._weights.shapes
            if name.endswith(_A)
        )

    def change(self, name: str) -> Array:
        """What is added to a weight. Raises `KeyError` for one that it leaves alone."""
        module = _PREFIX + name.removesuffix(_WEIGHT)
        product: Array = self._weights[module + _B] @ self._weights[module + _A]
        return self._scale * product


class Checkpoint:
    """An unpacked checkpoint, by the names of its weights."""

    def __init__(self, folder: Path) -> None:
        """Open it. Raises `ValueError` for a folder without weights."""
        shards = [Weights(path) for path in sorted(folder.glob("*.safetensors"))]
        if not shards:
            raise ValueError(f"{folder} is no checkpoint with safetensors")
        self._shards = {name: shard for shard in shards for name in shard.shapes}

    @property
    def names(self) -> frozenset[str]:
        """All weights."""
        return frozenset(self._shards)

    def change(self, name: str) -> Array:
        """The weight itself, as if the base's were zero. Raises `KeyError` for an unknown one."""
        return self._shards[name][name]


def opened(folder: Path) -> Adapter | Checkpoint:
    """Open a version, of whichever kind. Raises `ValueError`."""
    return Adapter(folder) if (folder / _ADAPTER_CONFIG).exists() else Checkpoint(folder)


def distance(
    one: Adapter | Checkpoint | None, other: Adapter | Checkpoint | None
) -> Mapping[str, tuple[float, float]]:
    """How far two versions of a kind are apart, None for the base model under adapters: by the name
    of each weight that differs, the norm (Frobenius) and the largest absolute value of the
    difference.
    """
    names = set().union(*(adapter.names for adapter in (one, other) if adapter))
    found = {}
    for name in sorted(names):
        parts = [
            adapter.change(name) if adapter and name in adapter.names else np.float32(0)
            for adapter in (one, other)
        ]
        difference = np.asarray(parts[1] - parts[0], dtype=np.float64)
        if difference.any():
            norm = float(np.linalg.norm(difference))
            found[name] = (norm, float(np.abs(difference).max()))
    return found
