"""`mia publish` and `mia ingest`."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from rich.console import Console

from ops.cli.connected import Connected, connected, run_named, waiting_for
from ops.cli.stack_view import console
from ops.connect import connections
from ops.defaults import DEFAULT_RUN
from ops.errors import Refused
from ops.settings import load_settings
from producers.hotpot import BadRow, read_rows, source_of
from producers.ingest import Ingested, Run, ingest
from producers.outlet import KafkaOutlet
from producers.publish import BadLine, read_lines, send
from schemas.external import IncomingQuestion
from storage.postgres.labels import PostgresLabels

__all__ = ["register", "seal_and_publish", "unreadable"]

_RunName = Annotated[str, Parameter(name=["--run", "-r"])]


def register(app: App) -> None:
    """Add these commands."""
    app.command(publish)
    app.command(ingest_file, name="ingest")


def publish(file: Path = Path("-"), /, *, run: _RunName = DEFAULT_RUN) -> None:
    """Publish questions, one a line: plain text, or JSON {"question": ..., "id": ...}.

    The same id twice is one question. Lines of a file have their place in it for an id.

    Args:
        file: The file; - reads standard input.
        run: The run that answers them, where a line does not name its own.
    """
    bad: list[BadLine] = []
    count = waiting_for(_publish(_questions(file, run, bad)))
    console().print(f"published {count} questions; `mia answers -f` follows them", markup=False)
    if bad:
        sys.exit(1)


def ingest_file(file: Path, /, *, run: _RunName = DEFAULT_RUN, limit: int | None = None) -> None:
    """Seal the labels of a file in HotpotQA's format and publish its questions.

    May be broken off and repeated: every row has the same identity each time.

    Args:
        file: A JSON list, or JSON lines: question, answer, context, and _id if there is one.
        run: The run to fill.
        limit: How many valid rows to take.
    """
    done = waiting_for(_ingest(file, run, limit))
    if not sys.stdout.isatty():
        return
    console().print(f"published {done.sent} questions, {done.bad} bad rows skipped", markup=False)


async def seal_and_publish(at: Connected, file: Path, name: str, limit: int | None) -> Ingested:
    """Ingest a file into a run, saying how far it is.

    Raises:
        Refused: the run is not there, or the file is none.
    """
    view, state = await run_named(at.ledger, name)
    if state not in {"running", "paused"}:
        raise Refused(f"run {name!r} is {state}: it takes nothing more", "Make another one.")
    base = await _base(at, view.run_no, file) if view.manifest.mode == "batch" else 0
    run = Run(
        run_no=view.run_no,
        id=view.id,
        name=name,
        positions=view.manifest.mode == "batch",
        base=base,
    )
    async with KafkaOutlet(at.connections.kafka) as outlet:
        return await ingest(
            file,
            run,
            labels=PostgresLabels(at.ledger.pool),
            outlet=outlet,
            limit=limit,
            bad=_report,
            progress=_progress,
        )


async def _ingest(file: Path, run: str, limit: int | None) -> Ingested:
    try:
        async with connected("mia_admit") as at:
            return await seal_and_publish(at, file, run, limit)
    except OSError as error:
        raise unreadable(file, error) from error
    except ValueError as error:
        raise Refused(f"{file} is not in HotpotQA's format: {error}", "See README.md.") from error


async def _base(at: Connected, run_no: int, file: Path) -> int:
    """Return where this file begins in the run: as before if the run has some of it."""
    row, position = await at.runs.place_of_source(run_no, source_of(file))
    places = {r.name: r.position for r in read_rows(file) if not isinstance(r, BadRow)}
    return position - places.get(row, 0) if row is not None else position


async def _publish(questions: Iterator[IncomingQuestion]) -> int:
    async with KafkaOutlet(connections(load_settings()).kafka) as outlet:
        return await send(outlet, questions)


def _questions(file: Path, run: str, bad: list[BadLine]) -> Iterator[IncomingQuestion]:
    standard = file == Path("-")
    try:
        lines = sys.stdin.buffer if standard else file.read_bytes().splitlines()
        source = "" if standard else source_of(file)
    except OSError as error:
        raise unreadable(file, error) from error
    for found in read_lines(lines, run, source):
        if isinstance(found, BadLine):
            bad.append(found)
            _warn(f"line {found.number} was skipped: {found.reason}")
        else:
            yield found


def _report(bad: BadRow) -> None:
    _warn(f"row {bad.number} was skipped: {bad.reason}")


def _progress(done: Ingested) -> None:
    if sys.stdout.isatty():
        console().print(f"published {done.sent} of {done.total}", end="\r", markup=False)
    else:
        print(json.dumps(msgspec.to_builtins(done)), flush=True)


def _warn(message: str) -> None:
    Console(stderr=True, soft_wrap=True).print(message, markup=False, style="yellow")


def unreadable(file: Path, error: OSError) -> Refused:
    """Return the refusal of a file that cannot be read."""
    return Refused(f"cannot read {file}: {error.strerror or error}", "Check the path.")
