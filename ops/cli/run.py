"""`mia run create|list|show|pause|resume|close|cancel`."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from cyclopts import App, Parameter, validators
from rich.table import Table

from mia_events.steps import Manifest
from ops.anchors import HeldBack, held_back
from ops.cancel import cancel_run
from ops.cli.waiting import waiting_for
from ops.connected import Connected, connected, run_named
from ops.console import console
from ops.errors import Refused
from ops.manifest import manifest_of, shown
from ops.settings import Settings, load_settings
from storage.postgres.labels import PostgresLabels
from storage.postgres.runs import RunExists, RunSummary

__all__ = ["runs"]

runs = App(name="run", help="Make runs, look at them, and steer them.")
_Json = Annotated[bool, Parameter(name="--json", negative="")]
_COLUMNS = ("name", "mode", "state", "accepted", "opened", "ended", "sealed_gen", "policy")


@dataclass(frozen=True)
class RunOptions:
    """What a run is made with; the manifest has a default for what is left out.

    Attributes:
        mode: live (default): each question reads committed memory and adds to it; batch: memory
            changes between batches only.
        rollouts: Attempts per question (G).
        batch_size: Questions per batch (B).
        lag: How many generations a batch may be behind; 0 waits for the batch before.
        seed: What all sampling seeds derive from.
        deterministic: Equal inputs give equal digests: batches, exact search, no limits of time.
        judge: supervised (default): against the sealed label; unsupervised: three reviewers and a
            chair, who see no label; none.
        label_wait: Seconds that a finished attempt waits for a label that comes after its answer.
        label_missing: What becomes of it without one: unjudged (default), or unsupervised.
        executor_grammar: json (default), or tags, which the published checkpoints speak.
        max_turns: Turns of an executor before it must answer.
        max_in_flight: Questions open at once.
        question_deadline: Seconds after which a question fails.
        batch_linger: Seconds after which a batch that is not full closes.
        batch_deadline: Seconds after which an open batch ends with what it has.
        memory_cap: Memories in use at most; above, the weakest retire.
        memory_frequency: Weight of the paper's term for memories used seldom (paper: 0.3).
        memory_search: hybrid (default): what a question means and its words; vector: the former.
    """

    mode: Literal["live", "batch"] | None = None
    rollouts: int | None = None
    batch_size: int | None = None
    lag: int | None = None
    seed: int | None = None
    deterministic: Annotated[bool, Parameter(negative="")] = False
    judge: Literal["supervised", "unsupervised", "none"] | None = None
    label_wait: float | None = None
    label_missing: Literal["unjudged", "unsupervised"] | None = None
    executor_grammar: Literal["json", "tags"] | None = None
    max_turns: int | None = None
    max_in_flight: int | None = None
    question_deadline: float | None = None
    batch_linger: float | None = None
    batch_deadline: float | None = None
    memory_cap: int | None = None
    memory_frequency: float | None = None
    memory_search: Literal["hybrid", "vector"] | None = None

    def chosen(self) -> dict[str, Any]:
        """Return the fields of a manifest; None for what was not chosen."""
        timed = ("question_deadline", "batch_linger", "batch_deadline", "label_wait")
        return {f"{name}_s" if name in timed else name: v for name, v in asdict(self).items()}


@dataclass(frozen=True)
class GuardOptions:
    """How new planner versions are guarded.

    Attributes:
        anchors: A benchmark whose questions are held back: a version serves only if it answers them
            no worse than the best one before it. Without, every new version serves at once.
        anchor_limit: How many of its rows (8).
        guard_rollouts: Attempts per anchor and version (2).
        guard_margin: How much mean reward a version may lose against the best (0.05).
        guard_z: How many standard errors of its difference to the best must lie within that (0).
        holdout: A benchmark on which every new version is measured, and nothing depends: its curve
            is not flattered by the guard's choices.
        holdout_limit: How many of its rows (32).
        holdout_rollouts: Attempts per question of the holdout (1).
    """

    anchors: Path | None = None
    anchor_limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 8
    guard_rollouts: int | None = None
    guard_margin: float | None = None
    guard_z: float | None = None
    holdout: Path | None = None
    holdout_limit: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 32
    holdout_rollouts: Annotated[int, Parameter(validator=validators.Number(gte=1))] = 1

    def chosen(self) -> dict[str, Any]:
        """Return the fields of a manifest, but for the questions themselves.

        Raises:
            Refused: there is nothing for the rules to go by.
        """
        rules = {
            "rollouts": self.guard_rollouts,
            "margin": self.guard_margin,
            "z": self.guard_z,
        }
        told = {name: rule for name, rule in rules.items() if rule is not None}
        if told and self.anchors is None:
            raise Refused(f"--guard-{next(iter(told))} needs questions to go by", "Add --anchors.")
        return {
            "holdout_rollouts": self.holdout_rollouts,
            "guard": "anchors" if self.anchors else "off",
            "guard_rules": told,
        }

    def held_back(self) -> dict[str, HeldBack]:
        """Read the files that were named, by the field of a manifest that they fill."""
        files = {
            "anchors": (self.anchors, self.anchor_limit),
            "holdout": (self.holdout, self.holdout_limit),
        }
        return {
            name: held_back(file, limit)
            for name, (file, limit) in files.items()
            if file is not None
        }


@dataclass(frozen=True)
class TrainOptions:
    """How the planner is trained; what is left out comes from the settings, `training.hyper`.

    Attributes:
        train: Train the planner on each batch. Groups of 4, in batches of 32 questions (of 4 where
            the planner is the embedded vLLM's), one batch ahead of learning, unless told otherwise.
        lr: Learning rate.
        kl: Weight of the divergence from the base model.
        row_tokens: Tokens of a training row: a prompt and its reply.
        lora_rank: Rank of the adapter; 0 trains every weight.
        staleness: How many updates a group may be behind the version that it trains.
    """

    train: Annotated[bool, Parameter(negative="")] = False
    lr: float | None = None
    kl: float | None = None
    row_tokens: int | None = None
    lora_rank: int | None = None
    staleness: int | None = None

    def chosen(self, settings: Settings, run: dict[str, Any]) -> dict[str, Any]:
        """Return the fields of a manifest, with those of `run` that were left out.

        Raises:
            Refused: something is said of training in a run that does not train.
        """
        told = {name: value for name, value in asdict(self).items() if value is not None}
        if not told.pop("train"):
            if told:
                raise Refused(f"--{next(iter(told)).replace('_', '-')} needs --train", "Add it.")
            return {}
        staleness = told.pop("staleness", None)
        hyper = {**msgspec.to_builtins(settings.training.hyper), **told}
        usual = {**_TTRL, "batch_size": 32 if settings.models.planner.base_url else 4}
        missing = {name: value for name, value in usual.items() if run[name] is None}
        reward = settings.training.reward
        return {
            **missing,
            "train": True,
            "hyper": hyper,
            "staleness": staleness,
            "reward": None if reward is None else msgspec.to_builtins(reward),
        }


#: What a run that trains is made with, unless told otherwise.
_TTRL = {"mode": "batch", "rollouts": 4, "lag": 1}
_NOTHING_CHOSEN = RunOptions()
_NO_TRAINING = TrainOptions()
_NO_GUARD = GuardOptions()


@runs.command
def create(
    name: str,
    /,
    *,
    options: Annotated[RunOptions, Parameter(name="*")] = _NOTHING_CHOSEN,
    training: Annotated[TrainOptions, Parameter(name="*")] = _NO_TRAINING,
    guard: Annotated[GuardOptions, Parameter(name="*")] = _NO_GUARD,
    tenant: str = "default",
    share: str | None = None,
) -> None:
    """Make a run. Its manifest pins prompts, models and these settings for good.

    Args:
        name: What questions call it.
        options: See there.
        training: See there.
        guard: See there.
        tenant: Whose run it is; no tenant sees another's memories.
        share: Share memories with the live runs of this tenant that name the same.
    """
    settings, run = load_settings(), options.chosen()
    fields = {**run, **training.chosen(settings, run), **guard.chosen()}
    held = guard.held_back()
    questions = {name: msgspec.to_builtins(one.questions) for name, one in held.items()}
    manifest = manifest_of(settings, **fields, **questions)
    if share is not None and manifest.mode != "live":
        raise Refused("a run with batches has memories of its own", "Leave out --share.")
    waiting_for(_create(name, manifest, tuple(held.values()), tenant, share))
    console().print(f"run {name} takes questions: mia publish FILE --run {name}", markup=False)


@runs.command(name="list")
def list_runs(*, as_json: _Json = False) -> None:
    """List the runs, newest first.

    Args:
        as_json: Print JSON lines; also what a pipe gets.
    """
    found = waiting_for(_list())
    if as_json or not sys.stdout.isatty():
        for run in found:
            print(msgspec.json.encode(run).decode())
    else:
        _print_table(found)


@runs.command
def show(name: str, /) -> None:
    """Show a run as JSON: its state, its questions by status, its manifest.

    Args:
        name: The run.
    """
    print(json.dumps(waiting_for(_show(name)), indent=2))


@runs.command
def pause(name: str, /) -> None:
    """Stop admission and claims; running steps end, deadlines stand still.

    Args:
        name: The run.
    """
    _say(name, waiting_for(_change(name, "pause")))


@runs.command
def resume(name: str, /) -> None:
    """Go on after a pause; what waits is published again.

    Args:
        name: The run.
    """
    _say(name, waiting_for(_change(name, "resume")))


@runs.command
def close(name: str, /) -> None:
    """Admit nothing more; the run ends when its last question does.

    Args:
        name: The run.
    """
    _say(name, waiting_for(_change(name, "close")))


@runs.command
def cancel(name: str, /) -> None:
    """End a run now; its open questions end as cancelled.

    Args:
        name: The run.
    """
    cut = waiting_for(_cancel(name))
    console().print(f"run {name} is cancelled; {cut} open questions ended with it", markup=False)


async def _create(
    name: str, manifest: Manifest, held: Sequence[HeldBack], tenant: str, share: str | None
) -> None:
    async with connected("mia_admit") as at:
        for one in held:
            await one.keep_documents(at.artifacts)
        try:
            await at.runs.create(name, manifest, tenant=tenant, scope=share)
        except (RunExists, ValueError) as error:
            raise Refused(str(error), "") from error
        view, _ = await run_named(at.ledger, name)
        for one in held:
            await one.seal(view, PostgresLabels(at.ledger.pool))


async def _list() -> list[RunSummary]:
    async with connected("mia_worker") as at:
        return await at.runs.list()


async def _show(name: str) -> dict[str, Any]:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, name)
        (summary,) = [run for run in await at.runs.list() if run.run_no == view.run_no]
        return {
            **msgspec.to_builtins(summary),
            "questions": await at.runs.counts(view.run_no),
            "manifest": shown(view.manifest),
        }


async def _change(name: str, change: Literal["pause", "resume", "close"]) -> str:
    async with connected("mia_admit") as at:
        view, _ = await run_named(at.ledger, name)
        state: str = await getattr(at.runs, change)(name)
        await at.ledger.advance(view.run_no)  # releases what waits; sweepers publish it
        return await _state(at, name) if change != "pause" else state


async def _state(at: Connected, name: str) -> str:
    return (await run_named(at.ledger, name))[1]


async def _cancel(name: str) -> int:
    async with connected("mia_admit") as at:
        await run_named(at.ledger, name)
        return await cancel_run(at.ledger, at.runs, name)


def _say(name: str, state: str) -> None:
    console().print(f"run {name} is {state}", markup=False)


def _print_table(found: list[RunSummary]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column)
    for run in found:
        table.add_row(*(str(getattr(run, column)) for column in _COLUMNS))
    console().print(table)
