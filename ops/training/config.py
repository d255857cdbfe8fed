"""Where this machine trains, by the settings: what a worker of the train stage must know."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from ops.embedded.state import Home
from ops.environments import (
    find_serve_environment,
    find_train_environment,
    serve_folder,
    train_folder,
)
from ops.errors import Refused
from ops.settings import Settings
from ops.training.process import Launch
from ops.training.trainer import EngineTrainer, Machine
from storage.ports import Artifacts

__all__ = ["TrainerConfig", "missing_trainer", "trainer_config", "trains_here"]

_UPDATES: Final = "updates"


class TrainerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that trains, as plain values: it travels to a worker with the rest of its
    configuration.
    """

    python: str
    model: str
    folder: str
    device: str
    threads: int
    processes: int
    timeout_s: float
    token_budget: int = 0

    def trainer(self, artifacts: Artifacts) -> EngineTrainer:
        """Return the trainer."""
        launch = Launch(python=Path(self.python), processes=self.processes, limit_s=self.timeout_s)
        machine = Machine(
            launch=launch,
            model=Path(self.model),
            folder=Path(self.folder),
            device="cuda" if self.device == "cuda" else "cpu",
            threads=self.threads,
            token_budget=self.token_budget,
        )
        return EngineTrainer(machine, artifacts)


def trains_here(settings: Settings) -> bool:
    """Tell whether runs may train and this machine can; another may do it as well."""
    return settings.training.enabled and find_train_environment(_folder(settings)) is not None


def missing_trainer(settings: Settings) -> tuple[str, ...]:
    """Say, for a reader, that runs may train and nobody does here; empty when somebody does."""
    if not settings.training.enabled or trains_here(settings):
        return ()
    why = f"nobody trains here: there is no train environment in {_folder(settings)}"
    return (f"{why}; make it with `make env-train`, or run `mia worker train` elsewhere",)


def trainer_config(settings: Settings) -> TrainerConfig:
    """Return how this machine trains.

    Raises:
        Refused: there is no train environment, or nothing says which weights to train.
    """
    training = settings.training
    folder = _folder(settings)
    python = find_train_environment(folder)
    if python is None:
        raise Refused(
            f"there is no train environment in {folder}",
            "Make it with `make env-train`, or set training.enabled = false.",
        )
    return TrainerConfig(
        python=str(python),
        model=str(_model(settings)),
        folder=str(Home(Path(settings.home).absolute()).root / _UPDATES),
        device=training.device,
        threads=training.threads or os.cpu_count() or 1,
        processes=training.processes,
        timeout_s=training.timeout_s,
        token_budget=training.token_budget,
    )


def _folder(settings: Settings) -> Path:
    named = settings.training.folder
    return Path(named).expanduser() if named else train_folder()


def _model(settings: Settings) -> Path:
    """Return the checkpoint folder of what the planner's servers serve."""
    named = settings.training.model or settings.embedded.model
    if named and Path(named).expanduser().is_dir():
        return Path(named).expanduser().absolute()
    serving = find_serve_environment(serve_folder())
    if named or settings.models.planner.base_url or serving is None:
        raise Refused(
            "nothing says which weights the planner has",
            "Set training.model to the folder of its checkpoint.",
        )
    return serving.chat_model
