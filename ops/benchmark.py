"""A benchmark's file, and its way into a run."""

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mia_events.learning.guard import Anchor
from ops.connected import Connected, run_named
from ops.console import warn
from ops.errors import Refused, unreadable
from producers.hotpot import BadRow, Row, read_rows, source_of
from producers.ingest import Ingested, Run, ingest
from producers.outlet import KafkaOutlet
from producers.tables import Columns, read_table, source_of_table
from storage.postgres.labels import PostgresLabels

__all__ = ["Benchmark", "read_benchmark", "seal_and_publish", "to_be_asked"]


class Benchmark(msgspec.Struct, frozen=True):
    """A file's rows and the name that makes them the same rows each time."""

    source: str
    rows: tuple[Row | BadRow, ...]


def read_benchmark(file: Path, columns: Columns | None = None) -> Benchmark:
    """Read a file in HotpotQA's format, or as a table with these columns.

    Raises:
        Refused: it cannot be read, or is in neither format.
    """
    try:
        if columns is None:
            return Benchmark(source_of(file), tuple(read_rows(file)))
        return Benchmark(source_of_table(file, columns), tuple(read_table(file, columns)))
    except OSError as error:
        raise unreadable(file, error) from error
    except ValueError as error:
        kind = "HotpotQA's format" if columns is None else "a table"
        raise Refused(f"{file} is not in {kind}: {error}", "See README.md.") from error


async def seal_and_publish(
    at: Connected,
    benchmark: Benchmark,
    name: str,
    limit: int | None = None,
    progress: Callable[[Ingested], None] = lambda _: None,
) -> Ingested:
    """Ingest a benchmark into a run.

    Raises:
        Refused: the run is not there, or takes nothing more.
    """
    view, state = await run_named(at.ledger, name)
    if state not in {"running", "paused"}:
        raise Refused(f"run {name!r} is {state}: it takes nothing more", "Make another one.")
    asked = to_be_asked(benchmark.rows, (*view.manifest.anchors, *view.manifest.holdout))
    if held := len(benchmark.rows) - len(asked):
        warn(f"{held} rows are anchors or holdout of run {name}: not asked")
    benchmark = Benchmark(benchmark.source, asked)
    batches = view.manifest.mode == "batch"
    base = await _base(at, view.run_no, benchmark) if batches else 0
    run = Run(run_no=view.run_no, id=view.id, name=name, positions=batches, base=base)
    async with KafkaOutlet(at.connections.kafka) as outlet:
        return await ingest(
            benchmark.rows,
            benchmark.source,
            run,
            labels=PostgresLabels(at.ledger.pool),
            outlet=outlet,
            limit=limit,
            bad=lambda bad: warn(f"row {bad.number} was skipped: {bad.reason}"),
            progress=progress,
        )


def to_be_asked(
    rows: Sequence[Row | BadRow], held_back: Sequence[Anchor]
) -> tuple[Row | BadRow, ...]:
    """Leave out what a run holds back, by its words, whichever file it is in."""
    held = {question.text for question in held_back}
    kept = [row for row in rows if isinstance(row, BadRow) or row.question not in held]
    places = itertools.count()
    return tuple(
        row if isinstance(row, BadRow) else msgspec.structs.replace(row, position=next(places))
        for row in kept
    )


async def _base(at: Connected, run_no: int, benchmark: Benchmark) -> int:
    """Return where this file begins in the run: as before if the run has some of it."""
    row, position = await at.runs.place_of_source(run_no, benchmark.source)
    places = {r.name: r.position for r in benchmark.rows if not isinstance(r, BadRow)}
    return position - places.get(row, 0) if row is not None else position
