"""`mia memory list|search|show|stats|import|export`."""

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from mia_events.effects import Recall, Remembered
from mia_events.steps import RunView
from ops.cli.waiting import waiting_for
from ops.connected import Connected, connected, run_named
from ops.console import console
from ops.defaults import DEFAULT_RUN
from ops.errors import Refused
from ops.memory_import import Imported, embedding, import_file
from producers.memory_file import Kept, write_memories
from storage.postgres.memory import PostgresMemory
from storage.postgres.memory_views import Listed, MemoryViews, Stats

__all__ = ["memories"]

memories = App(name="memory", help="Look at what was learned, bring it in, take it out.")
_CELL = 72


@dataclass(frozen=True)
class Where:
    """Which memories are meant.

    Attributes:
        run: The run that uses them.
        scope: Instead of a run: the scope, as `mia run list --json` names it.
    """

    run: Annotated[str, Parameter(name=["--run", "-r"])] = DEFAULT_RUN
    scope: str = ""


_Where = Annotated[Where, Parameter(name="*")]
_HERE = Where()


@memories.command(name="list")
def list_memories(*, where: _Where = _HERE, as_of: int | None = None, limit: int = 50) -> None:
    """List memories, newest first; JSON lines in a pipe.

    Args:
        where: See there.
        as_of: As they were in this generation (default: now).
        limit: How many.
    """
    found = waiting_for(_list(where, as_of, limit))
    _show(found, ("id", "outcome", "uses", "wins", "from_gen", "trust", "question", "text"))


@memories.command
def search(
    text: str,
    /,
    *,
    where: _Where = _HERE,
    as_of: int | None = None,
    limit: int = 5,
    words: bool = True,
) -> None:
    """Search as the planner does: by what a question means and its words, then by record.

    Args:
        text: A question.
        where: See there.
        as_of: Among the memories of this generation (default: now).
        limit: How many of each outcome.
        words: Whether words count beside the meaning.
    """
    found = waiting_for(_search(text, where, as_of, limit, words=words))
    _show(found, ("id", "version", "outcome", "score", "question", "text"))


@memories.command
def show(memory: UUID, /) -> None:
    """Show a memory as JSON: all its versions with the events that caused them, and its credits.

    Args:
        memory: Its id.
    """
    story = msgspec.json.encode(waiting_for(_story(memory)))
    print(msgspec.json.format(story, indent=2).decode())


@memories.command
def stats(*, where: _Where = _HERE) -> None:
    """Sum up a scope: memories in use, versions, evictions, credits, the newest generation.

    Args:
        where: See there.
    """
    found, cap = waiting_for(_stats(where))
    told = {**msgspec.to_builtins(found), "cap": cap}
    if not sys.stdout.isatty():
        print(msgspec.json.encode(told).decode())
        return
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value in told.items():
        table.add_row(name, f"{value:,}")
    console().print(table)


@memories.command(name="import")
def import_(file: Path, /, *, where: _Where = _HERE) -> None:
    """Bring in a memory file of the published system. The same file again changes nothing.

    Entries without a vector get one from the embedder. A bad entry is reported by number and
    skipped; with no good one the command fails.

    Args:
        file: One JSON object of modality, category, entries.
        where: See there.
    """
    told = waiting_for(_import(file, where))
    for bad in told.bad:
        Console(stderr=True, soft_wrap=True).print(
            f"entry {bad.number}: {bad.reason}; skipped", markup=False
        )
    if not sys.stdout.isatty():
        print(msgspec.json.encode(told).decode())
    else:
        console().print(_in_words(told), markup=False)
    if not told.good:
        sys.exit(1)


@memories.command
def export(
    *,
    to: Path | None = None,
    where: _Where = _HERE,
    as_of: int | None = None,
    vectors: bool = False,
) -> None:
    """Write memories as a memory file of the published system.

    Args:
        to: The file (default: standard output).
        where: See there.
        as_of: As they were in this generation (default: now).
        vectors: Also write the vectors, so that an import needs no embedder.
    """
    data = write_memories(map(_kept, reversed(waiting_for(_listed(where, as_of, vectors)))))
    if to is None:
        sys.stdout.write(data.decode() + "\n")
        return
    to.write_bytes(data + b"\n")


def _kept(memory: Listed) -> Kept:
    names = ("question", "text", "outcome", "plan", "category", "caption", "data_id", "uses")
    fields = {name: getattr(memory, name) for name in names}
    return Kept(**fields, wins=memory.wins, vector=memory.vector)


def _in_words(told: Imported) -> str:
    return (
        f"{told.good} memories of {told.file}: {told.written} written"
        f"{f', {told.known} there already' if told.known else ''}"
        f"{f', {told.repeated} repeated in the file' if told.repeated else ''}"
        f"{f', {len(told.bad)} bad entries skipped' if told.bad else ''}"
    )


async def _run_of(at: Connected, where: Where) -> RunView:
    """Return the run that is meant, or the newest of the scope that is."""
    if not where.scope:
        return (await run_named(at.ledger, where.run))[0]
    names = [run.name for run in await at.runs.list() if run.scope == where.scope]
    if not names:
        raise Refused(f"no run has the scope {where.scope!r}", "See `mia run list --json`.")
    return (await run_named(at.ledger, names[0]))[0]


async def _list(where: Where, as_of: int | None, limit: int) -> list[Listed]:
    async with connected("mia_worker") as at:
        run = await _run_of(at, where)
        return await MemoryViews(at.ledger.pool).listed(run.scope, as_of=as_of, limit=limit)


async def _listed(where: Where, as_of: int | None, vectors: bool) -> list[Listed]:  # noqa: FBT001 - passed on
    async with connected("mia_worker") as at:
        run = await _run_of(at, where)
        return await MemoryViews(at.ledger.pool).listed(run.scope, as_of=as_of, vectors=vectors)


async def _search(
    text: str, where: Where, as_of: int | None, limit: int, *, words: bool
) -> Sequence[Remembered]:
    async with connected("mia_worker") as at:
        run = await _run_of(at, where)
        async with embedding(at, run) as embed:
            (vector,) = await embed((text,))
        wanted = Recall(
            scope=run.scope,
            vector=vector,
            generation=as_of,
            successes=limit,
            failures=limit,
            text=text if words else "",
            frequency=run.manifest.memory_frequency,
        )
        return (await PostgresMemory(at.ledger.pool).recall(wanted)).items


async def _story(memory: UUID) -> dict[str, Any]:
    async with connected("mia_worker") as at:
        return await MemoryViews(at.ledger.pool).story(memory)


async def _stats(where: Where) -> tuple[Stats, int]:
    async with connected("mia_worker") as at:
        run = await _run_of(at, where)
        return await MemoryViews(at.ledger.pool).stats(run.scope), run.manifest.memory_cap


async def _import(file: Path, where: Where) -> Imported:
    async with connected("mia_admit") as at:
        return await import_file(at, await _run_of(at, where), file)


def _show(found: Iterable[Listed | Remembered], columns: Sequence[str]) -> None:
    if not sys.stdout.isatty():
        for memory in found:
            print(msgspec.json.encode(memory).decode())
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True)
    for memory in found:
        table.add_row(*(_cell(getattr(memory, column)) for column in columns))
    console().print(table)


def _cell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else " ".join(str(value).split())
    return text if len(text) <= _CELL else text[: _CELL - 1] + "…"
