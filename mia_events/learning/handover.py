"""What lies in a job's folder: the order that an engine reads, and the outcome that it leaves."""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec

from mia_events.learning.job import Determinants, TrainJob

#: Names inside the folder. Of the parent's, those exist that the order's parent names; the outcome
#: is written last and at once, so whoever sees it sees all.
ORDER: Final = "order.json"
OUTCOME: Final = "outcome.json"
PARENT_WEIGHTS: Final = "parent/weights"
PARENT_OPTIMIZER: Final = "parent/optimizer.safetensors"
WEIGHTS: Final = "made/weights"
OPTIMIZER: Final = "made/optimizer.safetensors"
#: Where the processes of one update meet, without a port.
MEETING: Final = "meeting"
#: The variable that ties an engine's life to that of whoever holds the other end of its input.
LEASH: Final = "MIA_TRAIN_LEASH"


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A job, and the machine to do it on.

    `model` is the base model's folder, as Hugging Face writes one. `token_budget` bounds what goes
    through the model at once (0: the job's longest row): more is faster on a GPU, and takes memory
    with its square where attention is dense.
    """

    job: TrainJob
    model: str
    device: Literal["cpu", "cuda"] = "cpu"
    threads: Annotated[int, msgspec.Meta(ge=1)] = 1
    token_budget: Annotated[int, msgspec.Meta(ge=0)] = 0


class Made(msgspec.Struct, frozen=True, kw_only=True, tag="made"):
    """An update that was done: its files are in the folder."""

    metrics: dict[str, float]
    determinants: Determinants


class Unfit(msgspec.Struct, frozen=True, kw_only=True, tag="unfit"):
    """A job that cannot be done, here or anywhere: trying again changes nothing."""

    why: str


Outcome = Made | Unfit

__all__ = [
    "LEASH",
    "MEETING",
    "OPTIMIZER",
    "ORDER",
    "OUTCOME",
    "PARENT_OPTIMIZER",
    "PARENT_WEIGHTS",
    "WEIGHTS",
    "Made",
    "Order",
    "Outcome",
    "Unfit",
]
