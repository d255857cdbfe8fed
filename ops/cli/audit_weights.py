"""`mia audit weights`: whether the ledger leads to the weights that are served."""

import sys
from typing import Annotated

import msgspec
from cyclopts import Parameter

from consumers.stages import STAGES
from mia_events.learning.job import Determinants
from mia_events.learning.versions import version_name
from ops.audit.report import UNABLE
from ops.audit.weights import Rebuilt, Told, audit_weights, lineage
from ops.cli.waiting import waiting_for
from ops.connected import connected, run_named
from ops.console import console
from ops.errors import Refused
from ops.replay.jobs import jobs_of
from ops.training.config import TrainerConfig, trainer_config
from ops.training.trainer import EngineTrainer
from storage.ports import Artifacts
from storage.postgres.policies import PostgresPolicies
from storage.postgres.replay import read_recording

__all__ = ["weights"]


def weights(
    *,
    run: str,
    to: str = "",
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Make planner versions again from the ledger, and compare them bit by bit.

    Each is made as it was: its job from the recorded rollouts, in a process of its own. Where the
    machine is another one, bits may differ: then the largest difference of any weight is told.
    Exit status 0: all are equal; 1: faults; 2: it cannot be told here.

    Args:
        run: The run.
        to: The last version, planner@vN or N; its ancestors come first (default: the newest).
        as_json: Print JSON lines; also what a pipe gets.
    """
    told = _as_json if as_json or not sys.stdout.isatty() else _as_text
    found = waiting_for(_weights(run, to, told))
    if any(one.is_fault for one in found):
        sys.exit(1)
    if any(one.is_open for one in found):
        sys.exit(UNABLE)


async def _weights(run: str, to: str, told: Told) -> tuple[Rebuilt, ...]:
    async with connected("mia_audit") as at:
        config = trainer_config(at.settings)
        view, _ = await run_named(at.ledger, run)
        registered = await PostgresPolicies(at.ledger.pool).list(view.run_no)
        if not registered:
            raise Refused(f"run {run} has no planner version", "It has not trained.")
        rows = lineage(registered, _name(to) if to else registered[-1].name)
        recording = await read_recording(at.connections.dsn("mia_audit"), run)

        def trainer(made_with: Determinants, artifacts: Artifacts) -> EngineTrainer:
            return _as_then(config, made_with).trainer(artifacts)

        jobs = jobs_of(recording, STAGES)
        return await audit_weights(rows, jobs, at.artifacts, trainer, told)


def _as_then(config: TrainerConfig, made_with: Determinants) -> TrainerConfig:
    """Return how this machine trains, set as the one was that made a version."""
    return msgspec.structs.replace(
        config,
        device="cpu" if made_with.device == "cpu" else "cuda",
        threads=made_with.threads,
        processes=made_with.processes,
        token_budget=made_with.token_budget,
    )


def _name(version: str) -> str:
    return version_name(int(version)) if version.isdecimal() else version


def _as_json(one: Rebuilt) -> None:
    print(msgspec.json.encode(one).decode(), flush=True)


def _as_text(one: Rebuilt) -> None:
    style = "red" if one.is_fault else "yellow" if one.is_open else "green"
    apart = "" if one.largest is None else f"; weights differ by {one.largest:.2e} at most"
    why = f": {one.why}" if one.why else ""
    line = f"{one.version} (upon {one.parent}): {one.verdict}{why}{apart}"
    console().print(f"{line} ({one.seconds:g} s)", markup=False, style=style)
