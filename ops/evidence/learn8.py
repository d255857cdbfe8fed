"""learn-8: the trainer on a GPU, where there is one. Without one nothing is run, and it says so."""

from __future__ import annotations

import random
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from mia_events.learning.job import Hyper, Parent, Row, Trained, TrainJob
from mia_events.learning.versions import version_name
from ops.evidence.record import Claim, Evidence
from ops.evidence.swaps import Store
from ops.settings import load_settings
from ops.training.config import trainer_config
from ops.training.trainer import EngineTrainer

__all__ = ["TITLE", "evidence"]

TITLE: Final = "the same trainer on a GPU, in bf16: seconds of an update, tokens a second, memory"
_ROWS, _PROMPT, _REPLY = 32, 384, 128  #: rows of 512 tokens, as many as a large batch's
_SHORT_ROWS, _SHORT_PROMPT, _SHORT_REPLY = 4, 24, 8
_GROUP: Final = 4
#: Below every model's number of tokens.
_VOCABULARY: Final = 4_096


async def evidence(*, short: bool = False) -> Evidence:
    """Make a version and a second one upon it. The short form does that on the CPU, with few tokens
    and in fp32, to try the command. `training.model` names another checkpoint than the small one.
    """
    gpus = _gpus()
    if not gpus and not short:
        return Evidence(figures={"run": False, "why": "`nvidia-smi -L` names no GPU"}, claims=())
    device: Literal["cpu", "cuda"] = "cpu" if short else "cuda"
    hyper = Hyper(lr=1e-4, compute="fp32" if short else "bf16")
    with tempfile.TemporaryDirectory(prefix="mia-learn8-") as folder:
        trainer = _trainer(Path(folder), device)
        first = await _timed(trainer, 1, Parent(), hyper, short=short)
        second = await _timed(trainer, 2, _upon(first["trained"]), hyper, short=short)
    made = [one.pop("trained") for one in (first, second)]
    return Evidence(
        figures={"run": True, "gpus": gpus, "device": device, "updates": [first, second]},
        claims=(
            Claim(f"two versions were made on {device}", all(one.adapter_sha256 for one in made)),
            Claim("the second is not the first", len({one.adapter_sha256 for one in made}) == 2),  # noqa: PLR2004
            Claim("both steps moved weights", all(one.metrics["update_norm"] > 0 for one in made)),
        ),
    )


def _gpus() -> list[str]:
    """Return the names of the GPUs at hand."""
    try:
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    return [line.partition(" (UUID")[0] for line in said.stdout.splitlines()]


def _trainer(folder: Path, device: Literal["cpu", "cuda"]) -> EngineTrainer:
    """Return the trainer that the settings name, on that device."""
    config = msgspec.structs.replace(
        trainer_config(load_settings()), device=device, folder=str(folder / "jobs"), processes=1
    )
    return config.trainer(Store())


async def _timed(
    trainer: EngineTrainer, number: int, parent: Parent, hyper: Hyper, *, short: bool
) -> dict[str, Any]:
    rows = _rows(number, parent.policy, short=short)
    job = TrainJob(
        policy=version_name(number), model="planner", parent=parent, hyper=hyper, seed=number,
        rows=rows,
    )  # fmt: skip
    began = time.monotonic()
    trained = await trainer.train(job)
    tokens = sum(len(row.prompt_ids) + len(row.token_ids) for row in rows)
    return {
        "trained": trained,
        "rows": len(rows),
        "tokens": tokens,
        "seconds": round(time.monotonic() - began, 1),
        "tokens/s of the step": round(tokens / trained.metrics["seconds_update"], 1),
        "metrics": trained.metrics,
    }


def _rows(seed: int, policy: str, *, short: bool) -> tuple[Row, ...]:
    """Return made-up turns; half of each group are called better."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    count, prompt, reply = (
        (_SHORT_ROWS, _SHORT_PROMPT, _SHORT_REPLY) if short else (_ROWS, _PROMPT, _REPLY)
    )

    def drawn(length: int) -> tuple[int, ...]:
        return tuple(chance.randrange(_VOCABULARY) for _ in range(length))

    return tuple(
        Row(
            question=UUID(int=number // _GROUP), rollout=number % _GROUP, step="plan",
            policy=policy, prompt_ids=drawn(prompt), token_ids=drawn(reply),
            logprobs=(-8.0,) * reply, reward=float(number % 2),
            advantage=(-0.866, 0.866)[number % 2],
        )
        for number in range(count)
    )  # fmt: skip


def _upon(trained: Trained) -> Parent:
    return Parent(
        policy=version_name(1),
        adapter_sha256=trained.adapter_sha256,
        optimizer_sha256=trained.optimizer_sha256,
    )
