"""`mia ingest`: a benchmark's labels sealed, its questions published, and followed to their end."""

import asyncio
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any, Final, Self

import msgspec
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ops.benchmark import Benchmark, read_benchmark, seal_and_publish
from ops.cli.waiting import waiting_for
from ops.connected import Connected, connected, run_named
from ops.console import console
from ops.defaults import DEFAULT_RUN
from ops.errors import Refused
from producers.ingest import Ingested
from producers.tables import Columns
from storage.postgres.watch import PostgresWatch, Standing

__all__ = ["ingest_file"]

_POLL_S: Final = 1.0
_SETTLED_S: Final = 15.0
_Column = Annotated[str | None, Parameter(negative="")]
_Flag = Annotated[bool, Parameter(negative="")]


def ingest_file(
    file: Path,
    /,
    *,
    run: Annotated[str, Parameter(name=["--run", "-r"])] = DEFAULT_RUN,
    limit: int | None = None,
    question_column: _Column = None,
    answer_column: _Column = None,
    id_column: _Column = None,
    documents_column: _Column = None,
    unlabelled: _Flag = False,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="")] = False,
    close: _Flag = False,
) -> None:
    """Seal the labels of a benchmark, then publish its questions.

    HotpotQA's JSON or JSON lines; with a column named, or as .csv, a table. May be broken off and
    repeated: every row has the same identity each time.

    Args:
        file: The benchmark.
        run: The run to fill.
        limit: How many valid rows to take.
        question_column: Where the question stands (question).
        answer_column: Where the gold answer stands (answer): a text, a number, a list of texts.
        id_column: Where a row's name stands, if there is one (id); else its number names it.
        documents_column: Where passages for that question alone stand, if any (documents).
        unlabelled: A table without gold answers.
        follow: Stay until all of it has ended; show rate, accuracy and lag.
        close: Close the run once all is accepted, so that an incomplete last batch ends too.
    """
    chosen = {
        "question": question_column,
        "answer": answer_column,
        "id": id_column,
        "documents": documents_column,
    }
    named = {name: column for name, column in chosen.items() if column is not None}
    columns: Columns | None = None
    if unlabelled or named or file.suffix == ".csv":
        columns = Columns(**({**named, "answer": None} if unlabelled else named))
    benchmark = read_benchmark(file, columns)
    waiting_for(_ingest(benchmark, run, limit, follow=follow, close=close))


async def _ingest(
    benchmark: Benchmark, run: str, limit: int | None, *, follow: bool, close: bool
) -> None:
    async with connected("mia_admit") as at:
        with _Shown() as shown:
            done = await seal_and_publish(at, benchmark, run, limit, shown.publishing)
            if follow or close:
                await _follow(at, benchmark.source, run, done, shown, follow=follow, close=close)
    if sys.stdout.isatty():
        said = f"published {done.sent} questions, {done.bad} bad rows skipped"
        console().print(said, markup=False)


async def _follow(
    at: Connected,
    source: str,
    run: str,
    done: Ingested,
    shown: "_Shown",
    *,
    follow: bool,
    close: bool,
) -> None:
    """Look until all has ended, or nothing more is accepted and nothing moves."""
    view, _ = await run_named(at.ledger, run)
    watch, began, quiet_since, last = PostgresWatch(at.ledger.pool), time.monotonic(), 0.0, None
    while True:
        now = time.monotonic()
        standing = await watch.standing(view.run_no, source)
        if standing != last:
            last, quiet_since = standing, now
            shown.following(standing, done.total, standing.ended / max(now - began, 1e-9))
        if close and standing.accepted >= done.total:
            await at.runs.close(run)
            await at.ledger.advance(view.run_no)
            close = False
        if standing.ended >= done.total or (not follow and not close):
            return
        if standing.ended == standing.accepted and now - quiet_since > _SETTLED_S:
            missing = done.total - standing.accepted
            raise Refused(f"{missing} questions were not accepted", "See topic mia.dead-letter.")
        await asyncio.sleep(_POLL_S)


class _Shown(AbstractContextManager["_Shown"]):
    """A progress bar on a terminal, JSON lines in a pipe."""

    def __init__(self) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[said]}"),
            console=Console(),
            disable=not sys.stdout.isatty(),
        )
        self._task = self._bar.add_task("publishing", total=None, said="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def publishing(self, done: Ingested) -> None:
        """Show how far publishing is."""
        self._bar.update(self._task, completed=done.sent, total=done.total)
        self._tell(msgspec.to_builtins(done))

    def following(self, standing: Standing, total: int, rate: float) -> None:
        """Show how far answering is: `rate` in questions per second since the ingest."""
        self._bar.update(
            self._task,
            description="answering",
            completed=standing.ended,
            total=total,
            said=in_words(standing, rate),
        )
        self._tell({**msgspec.to_builtins(standing), "total": total, "rate": round(rate, 3)})

    @staticmethod
    def _tell(facts: dict[str, Any]) -> None:
        if not sys.stdout.isatty():
            print(msgspec.json.encode(facts).decode(), flush=True)


def in_words(standing: Standing, rate: float) -> str:
    """Say in a line how an ingest goes."""
    parts: Sequence[str] = (
        f"{rate:.2f}/s",
        f"accuracy {standing.correct / standing.graded:.1%}" if standing.graded else "no grade yet",
        f"{standing.failed} failed",
        f"lag {standing.lag}",
    )
    return ", ".join(parts)
