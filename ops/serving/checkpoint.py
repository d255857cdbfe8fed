"""A planner version as a plain Hugging Face checkpoint: its adapter merged into the base, fp32."""

import json
import shutil
from pathlib import Path
from typing import Any, Final

from ops.errors import Refused
from ops.serving.lora import Adapter
from ops.serving.weights import Array, Weights, write_weights

__all__ = ["export_merged"]

_CONFIG: Final = "config.json"
#: What a checkpoint may hold beside its weights: names that do not end in these are left out.
_KEPT: Final = (".json", ".txt", ".jinja", ".model")


def export_merged(base: Path, adapter: Path | None, target: Path) -> None:
    """Write the checkpoint folder `base` with `adapter` (None: as it is) to the new folder
    `target`, one file of weights after the other.

    Raises:
        Refused: `base` is no checkpoint, the adapter is not one of it, or `target` is there.
    """
    files = sorted(base.glob("*.safetensors"))
    if not files or not (base / _CONFIG).exists():
        raise Refused(
            f"{base} is no checkpoint with safetensors", "Name the base model's folder: --base."
        )
    try:
        target.mkdir(parents=True)
    except FileExistsError as error:
        raise Refused(f"{target} is there already", "Name a new folder.") from error
    try:
        _merge(files, Adapter(adapter) if adapter else None, target)
        _copy_rest(base, target)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def _merge(files: list[Path], adapter: Adapter | None, target: Path) -> None:
    shards = {path.name: Weights(path) for path in files}
    known = {name for shard in shards.values() for name in shard.shapes}
    names = adapter.names if adapter else frozenset()
    if foreign := sorted(names - known):
        raise Refused(
            f"the base model has no {foreign[0]}, which the version changes",
            "Name the folder of the model that the run's planner is: --base.",
        )
    for file, shard in shards.items():

        def merged(name: str, shard: Weights = shard) -> Array:
            weight = shard[name]
            return weight + adapter.change(name) if adapter and name in names else weight

        write_weights(target / file, shard.shapes, merged)


def _copy_rest(base: Path, target: Path) -> None:
    for path in base.iterdir():
        if path.is_file() and path.name.endswith(_KEPT) and path.name != _CONFIG:
            shutil.copyfile(path, target / path.name)
    config: dict[str, Any] = json.loads((base / _CONFIG).read_bytes())
    for key in {"torch_dtype", "dtype"} & config.keys():
        config[key] = "float32"
    config.pop("quantization_config", None)
    (target / _CONFIG).write_text(json.dumps(config, indent=2) + "\n")
