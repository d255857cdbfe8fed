"""`mia policy list|show|diff|promote|rollback|export|serve`."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import App, Parameter
from rich.table import Table

from mia_events.learning.versions import BASE, number_of, served_name, version_name
from mia_events.steps import RunView
from ops.cli.waiting import waiting_for
from ops.connect import connections
from ops.connected import Connected, connected, run_named
from ops.console import console
from ops.embedded.state import Home
from ops.errors import Refused
from ops.models import base_model_folder, ports_in_use
from ops.serving.checkpoint import export_merged
from ops.serving.compare import differences, weights_apart
from ops.serving.config import ServingConfig, artifacts_folder, serving_config, versions_folder
from ops.serving.folders import VersionFolders, unpack_adapter, unpack_checkpoint
from ops.serving.lora import Adapter, Checkpoint, opened
from ops.serving.process import serve as keep_level
from ops.serving.reconciler import Level
from ops.settings import load_settings
from storage.ports import PolicyRow
from storage.postgres.artifacts import PostgresArtifacts
from storage.postgres.policies import PostgresPolicies

__all__ = ["policies"]

policies = App(name="policy", help="Look at planner versions, set which one serves, take one out.")
_Json = Annotated[bool, Parameter(name="--json", negative="")]


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """A version as `mia policy list` shows it."""

    name: str
    state: str
    serves: bool
    parent: str
    batch: int
    adapter_sha256: str
    at: Any


@policies.command(name="list")
def list_versions(run: str, /, *, as_json: _Json = False) -> None:
    """List a run's versions, oldest first.

    Args:
        run: The run.
        as_json: Print JSON lines; also what a pipe gets.
    """
    found = waiting_for(_list(run))
    if as_json or not sys.stdout.isatty():
        for one in found:
            print(msgspec.json.encode(one).decode())
        return
    table = Table(box=None, pad_edge=False)
    for column in ("", "version", "state", "parent", "batch", "weights", "made"):
        table.add_column(column)
    for one in found:
        made, weights = one.at.astimezone().strftime("%F %T"), one.adapter_sha256[:12]
        mark = "*" if one.serves else ""
        table.add_row(mark, one.name, one.state, one.parent, str(one.batch), weights, made)
    console().print(table)


@policies.command
def show(run: str, version: str, /) -> None:
    """Show a version as JSON: its lineage, its data, how it was made, what determined its bits.

    Args:
        run: The run.
        version: planner@vN, or N.
    """
    print(json.dumps(waiting_for(_show(run, version)), indent=2, default=str))


@policies.command
def diff(run: str, one: str, other: str, /) -> None:
    """Compare two versions: how they were made, and how far their weights are apart.

    Args:
        run: The run.
        one: planner@vN, N, or base.
        other: Another.
    """
    print(json.dumps(waiting_for(_diff(run, one, other)), indent=2, default=str))


@policies.command
def promote(run: str, version: str, /, *, reason: str = "") -> None:
    """Let a version serve: batches and live questions that open from here on.

    A guard that is at work on another one does not overrule it.

    Args:
        run: The run.
        version: planner@vN, N, or base.
        reason: Kept with the event.
    """
    _set(run, version, reason)


@policies.command
def rollback(run: str, /, *, to: str = "", reason: str = "") -> None:
    """Take back the version that serves.

    Args:
        run: The run.
        to: What serves then (default: its parent).
        reason: Kept with the event.
    """
    _set(run, to or waiting_for(_parent(run)), reason)


@policies.command
def export(
    run: str,
    version: str,
    folder: Path,
    /,
    *,
    adapter: Annotated[bool, Parameter(negative="")] = False,
    base: Path | None = None,
) -> None:
    """Write a version to a new folder, as a plain Hugging Face checkpoint in fp32.

    Args:
        run: The run.
        version: planner@vN, N, or base.
        folder: Where to.
        adapter: The adapter alone, as PEFT and vLLM read it.
        base: The folder of the base model (default: the one in the box, or embedded.model).
    """
    waiting_for(_export(run, version, folder, base, alone=adapter))
    console().print(f"{_name(version)} of run {run} is in {folder}", markup=False)


@policies.command
def serve() -> None:
    """Keep the planner's servers level with the registry until Ctrl-C, where `mia up` does not.

    Versions that unfinished runs may ask for are loaded at every server of `serving.replicas`,
    others are unloaded.
    """
    settings = load_settings()
    home = Home(Path(settings.home).absolute())
    config = serving_config(settings, connections(settings), ports_in_use(home))
    if not config.replicas:
        raise Refused("no server of a planner is known", "Set serving.replicas, or `mia up`.")
    asyncio.run(_serve(config))


async def _serve(config: ServingConfig) -> None:
    last: list[str] = []

    def told(level: Level) -> None:
        lines = [
            f"{one.address}: {', '.join(one.serves) or 'no version'}"
            + (f" ({one.problem})" if one.problem else "")
            for one in level.replicas
        ]
        if lines != last:
            last[:] = lines
            for line in lines:
                console().print(line, markup=False)

    await keep_level(config, told)


async def _list(run: str) -> list[Listed]:
    async with connected("mia_worker") as at:
        serving, rows = await _versions(at, run)
    return [
        Listed(
            serves=row.name == serving,
            **{name: getattr(row, name) for name in Listed.__struct_fields__ if name != "serves"},
        )
        for row in rows
    ]


async def _show(run: str, version: str) -> dict[str, Any]:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, run)
        row = await _row(at, view.run_no, _name(version))
        if row is None:
            raise Refused("the base model is no version: nothing made it", "Name planner@vN.")
        serving, _ = await _versions(at, run)
    told: dict[str, Any] = msgspec.to_builtins(row)
    return {**told, "serves": row.name == serving, "record": json.loads(row.record)}


async def _diff(run: str, one: str, other: str) -> dict[str, Any]:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, run)
        rows = [await _row(at, view.run_no, _name(name)) for name in (one, other)]
        weights = [await _weights(at, view, row) for row in rows]
    records = [json.loads(row.record) if row else {} for row in rows]
    apart = await asyncio.to_thread(weights_apart, *weights)
    return {
        "versions": [row.name if row else BASE for row in rows],
        "record": differences(*records),
        "weights": apart,
    }


async def _export(run: str, version: str, folder: Path, base: Path | None, *, alone: bool) -> None:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, run)
        row = await _row(at, view.run_no, _name(version))
        if row is None and alone:
            raise Refused("the base model has no adapter", "Name planner@vN.")
        whole = not view.manifest.hyper.lora_rank
        if alone and whole:
            raise Refused("a run that trains all weights has no adapters", "Leave out --adapter.")
        unpacked = await _unpacked(at, view, row) if row else None
        if unpacked is not None and (alone or whole):
            await asyncio.to_thread(_copy, unpacked, folder)
            return
        model = view.manifest.roles["planner"].model
        where = base or base_model_folder(at.settings, model)
    await asyncio.to_thread(export_merged, where, unpacked, folder)


async def _weights(
    at: Connected, view: RunView, row: PolicyRow | None
) -> Adapter | Checkpoint | None:
    """A version's weights. The base model's are needed only where versions are no adapters."""
    if row is not None:
        return opened(await _unpacked(at, view, row))
    if view.manifest.hyper.lora_rank:
        return None
    return Checkpoint(base_model_folder(at.settings, view.manifest.roles["planner"].model))


def _copy(version: Path, folder: Path) -> None:
    try:
        shutil.copytree(version, folder)
    except FileExistsError as error:
        raise Refused(f"{folder} is there already", "Name a new folder.") from error
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _set(run: str, version: str, reason: str) -> None:
    name = _name(version)
    before = waiting_for(_promote(run, name, reason))
    console().print(f"run {run} is served by {name} from here on, not {before}", markup=False)


async def _promote(run: str, name: str, reason: str) -> str:
    async with connected("mia_admit") as at:
        await run_named(at.ledger, run)
        try:
            return await at.runs.set_policy(run, name, reason=reason)
        except ValueError as error:
            raise Refused(str(error), f"See `mia policy list {run}`.") from error


async def _parent(run: str) -> str:
    async with connected("mia_worker") as at:
        serving, rows = await _versions(at, run)
    found = next((row.parent for row in rows if row.name == serving), None)
    if found is None:
        raise Refused(f"run {run} is served by the base model", "There is nothing to take back.")
    return found


async def _versions(at: Connected, run: str) -> tuple[str, tuple[PolicyRow, ...]]:
    """The version that serves a run, and all that it has."""
    view, _ = await run_named(at.ledger, run)
    (summary,) = [one for one in await at.runs.list() if one.run_no == view.run_no]
    return summary.policy, await PostgresPolicies(at.ledger.pool).list(view.run_no)


async def _row(at: Connected, run_no: int, name: str) -> PolicyRow | None:
    """A version; None for the base model. Raises `LookupError` for one that is not registered."""
    row = await PostgresPolicies(at.ledger.pool).get(run_no, name)
    if row is None and name != BASE:
        raise LookupError(f"{name} is no version of this run: `mia policy list` shows them")
    return row


async def _unpacked(at: Connected, view: RunView, row: PolicyRow) -> Path:
    store = PostgresArtifacts(at.ledger.pool, artifacts_folder(at.settings))
    unpacked = unpack_adapter if view.manifest.hyper.lora_rank else unpack_checkpoint
    folders = VersionFolders(store, versions_folder(at.settings), unpacked=unpacked)
    name = served_name(row.name, row.adapter_sha256)
    try:
        return await folders.ensure(name, row.adapter_sha256)
    except (LookupError, ValueError) as error:
        raise Refused(f"{row.name} cannot be read: {error}", "Restore it from a backup.") from error


def _name(version: str) -> str:
    name = version_name(int(version)) if version.isdecimal() else version
    if number_of(name) is None:
        raise Refused(f"{version!r} names no version", "Name planner@vN, N, or base.")
    return name
