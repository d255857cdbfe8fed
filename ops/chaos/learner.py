"""Runs that train by verl, of which the planner's tokens are scripted."""

from __future__ import annotations

import importlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import msgspec

from consumers.stages import STAGES
from mia_events.learning.job import Hyper, TrainJob
from ops.chaos.cluster import Cluster, Stack, cluster
from ops.chaos.desk import Desk
from ops.chaos.trial import Load, Outcome, Trouble, no_trouble, run_trial
from ops.environments import find_train_environment, train_folder
from ops.errors import Refused
from ops.replay.jobs import jobs_of
from ops.training.config import TrainerConfig
from ops.worker import EVERYTHING
from storage.postgres.replay import Recording, read_recording

__all__ = ["Learned", "Version", "learn", "learned", "learning_lab", "tiny_trainer"]

_MODEL: Final = "tests.support.tiny_llama"
#: Room for every token that the script invents.
_VOCABULARY: Final = 49_152
_HYPER: Final = Hyper(lr=1e-3, lora_rank=4, lora_alpha=8, importance=2.0, row_tokens=1_024)
_LIMIT_S: Final = 600.0
_VERSIONS: Final = """
SELECT p.name, p.parent, p.batch, p.state, encode(p.adapter_sha, 'hex') AS adapter_sha256,
       encode(p.optimizer_sha, 'hex') AS optimizer_sha256, e.attempt AS attempts
FROM policy AS p JOIN event AS e ON (e.run_no, e.id) = (p.run_no, p.event_id)
WHERE p.run_no = $1 ORDER BY p.number
"""
_TRAINED: Final = """
SELECT t.batch, q.pos FROM train_group AS t JOIN question AS q ON q.id = t.question
WHERE t.run_no = $1 ORDER BY t.batch, q.pos
"""
_USED: Final = "SELECT policy, count(*) AS n FROM question WHERE run_no = $1 GROUP BY 1 ORDER BY 1"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """A planner version and what it was made from.

    `groups` are the positions of the questions that its batch used up; `rollouts_sha256` is over
    all rows that it was trained on, with a question's position for its id, which differs by run.
    """

    name: str
    parent: str
    batch: int
    state: str
    adapter_sha256: str
    optimizer_sha256: str
    groups: tuple[int, ...]
    rows: int
    rollouts_sha256: str


class Learned(msgspec.Struct, frozen=True, kw_only=True):
    """What a run that trains came to.

    `used` counts questions by the version that planned them, `attempts` is how often each version's
    step was begun. `made_again`: the ledger leads to the very jobs that were trained.
    """

    versions: tuple[Version, ...]
    used: dict[str, int]
    attempts: dict[str, int]
    made_again: bool
    outcome: Outcome

    @property
    def once(self) -> bool:
        """No group was used twice."""
        groups = [group for version in self.versions for group in version.groups]
        return len(groups) == len(set(groups))


def tiny_trainer(folder: Path) -> TrainerConfig:
    """Return a machine that trains a Llama of two layers by verl, its files in a new `folder`.

    Raises:
        Refused: there is no train environment, or no tests.
    """
    python = find_train_environment(train_folder())
    if python is None:
        raise Refused("there is no verl", "Make it with `make env-train`.")
    if find_spec("tests") is None:
        raise Refused("the small model is a part of the tests", "Run this from a checkout.")
    model = importlib.import_module(_MODEL).write_tiny_llama(
        folder / "tiny", vocabulary=_VOCABULARY
    )
    return TrainerConfig(
        python=str(python),
        model=str(model),
        folder=str(folder / "updates"),
        device="cpu",
        threads=min(2, os.cpu_count() or 1),
        processes=1,
        timeout_s=_LIMIT_S,
    )


@asynccontextmanager
async def learning_lab(stack: Stack, folder: Path, *, planners: int = 1) -> AsyncIterator[Cluster]:
    """Give a cluster in a new `folder` with workers of every stage but the trainer's, and a small
    model to train: hire who trains.
    """
    async with cluster(stack, folder, trainer=tiny_trainer(folder)) as lab:
        for number in range(1, planners + 1):
            lab.hire(f"planners-{number}", EVERYTHING)
        yield lab


async def learn(
    cluster: Cluster, name: str, load: Load, trouble: Trouble = no_trouble
) -> tuple[Learned, Any]:
    """Run a load that trains, with trouble; what came of it, and the trouble's word."""
    hyper = msgspec.to_builtins(_HYPER)
    outcome, troubled = await run_trial(cluster, name, load, trouble, train=True, hyper=hyper)
    recording = await read_recording(cluster.audit_dsn, name)
    return await learned(cluster.desk, recording, outcome), troubled


async def learned(desk: Desk, recording: Recording, outcome: Outcome) -> Learned:
    """Return what a run came to, by its ledger."""
    run = recording.run.run_no
    jobs = {one.job.policy: one for one in jobs_of(recording, STAGES)}
    trained = await desk.rows(_TRAINED, run)
    rows = [dict(row) for row in await desk.rows(_VERSIONS, run)]
    attempts = {row["name"]: row.pop("attempts") for row in rows}
    positions = {question: view.position for question, view in recording.questions.items()}
    return Learned(
        versions=tuple(
            Version(
                **row,
                groups=tuple(one["pos"] for one in trained if one["batch"] == row["batch"]),
                rows=len(jobs[row["name"]].job.rows),
                rollouts_sha256=_digest(jobs[row["name"]].job, positions),
            )
            for row in rows
        ),
        used={row["policy"]: row["n"] for row in await desk.rows(_USED, run)},
        attempts=attempts,
        made_again=all(one.same for one in jobs.values()),
        outcome=outcome,
    )


def _digest(job: TrainJob, positions: Mapping[Any, int]) -> str:
    """SHA-256 hex of a job's rows: whose turns, tokens, probabilities, rewards, advantages."""
    rows = [{**msgspec.to_builtins(row), "question": positions[row.question]} for row in job.rows]
    return sha256(msgspec.json.encode(rows, order="sorted")).hexdigest()
