"""`mia learn`: what a run learns, batch by batch, as it goes; or its curve as a picture."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import Parameter
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mia_events.ordering import by_time
from ops.cli.waiting import waiting_for
from ops.connected import Connected, connected, run_named
from ops.console import console
from ops.errors import Refused
from ops.learning.lessons import TYPES, Lesson, Ordered, lessons_of
from ops.learning.plot import page, picture
from schemas.envelope import decode_payload
from storage.postgres.watch import Feed, PostgresWatch, SeenEvent

__all__ = ["learn"]

_POLL_S: Final = 1.0
#: Rows that are shown whatever the terminal's height, and lines that stand below them.
_FEWEST: Final = 5
_BELOW: Final = 10
_OVER: Final = frozenset({"ended", "purged"})
_COLUMNS: Final = (
    "batch", "answered by", "groups", "rows", "reward", "final", "age", "version", "on anchors",
    "best", "on holdout", "decision", "seconds",
)  # fmt: skip


@dataclass
class _Seen:
    """A run as it stands; `told` counts the lines that were printed of it."""

    run: str
    state: str = ""
    serves: str = ""
    lessons: Sequence[Lesson] = ()
    orders: Sequence[Ordered] = ()
    told: int = 0


def learn(
    run: str,
    /,
    *,
    once: Annotated[bool, Parameter(negative="")] = False,
    plot: Path | None = None,
) -> None:
    """Watch what a run learns, batch by batch, until it ends.

    A table on a terminal; in a pipe a JSON line for each batch that is sealed and each order of an
    operator.

    Args:
        run: The run.
        once: Print what there is, and end.
        plot: Write the learning curve to this file instead, .svg or .html.
    """
    if plot is not None:
        _plot(run, plot)
    elif sys.stdout.isatty():
        with Live(console=console(), auto_refresh=False) as live:
            waiting_for(
                _watch(run, lambda seen: live.update(_shown(seen), refresh=True), once=once)
            )
    else:
        waiting_for(_watch(run, _print_lines, once=once))


def _plot(run: str, path: Path) -> None:
    drawn = {".svg": picture, ".html": page}.get(path.suffix)
    if drawn is None:
        raise Refused(f"{path} is neither .svg nor .html", "Name one of these.")
    found: list[_Seen] = []
    waiting_for(_watch(run, found.append, once=True))
    (seen,) = found
    if not seen.lessons:
        raise Refused(f"run {run} has no batch yet", "Only runs with batches have any.")
    try:
        path.write_text(drawn(run, seen.lessons, seen.orders))
    except OSError as error:
        raise Refused(f"{path} cannot be written: {error.strerror}", "Name another.") from error
    console().print(f"the learning curve of run {run} is in {path}", markup=False)


async def _watch(run: str, tell: Callable[[_Seen], None], *, once: bool) -> None:
    async with connected("mia_worker") as at:
        view, _ = await run_named(at.ledger, run)
        feed = Feed(PostgresWatch(at.ledger.pool), view.run_no, TYPES)
        events: list[SeenEvent] = []
        seen = _Seen(run)
        while True:
            await _look(at, seen)
            events = by_time(
                [*events, *await feed.fresh()], lambda e: ((e.kind, e.stream), e.at, e.seq)
            )
            told = [(e.at, decode_payload(e.body)) for e in events if e.body is not None]
            seen.lessons, seen.orders = lessons_of(told)
            tell(seen)
            if once or seen.state in _OVER:
                return
            await asyncio.sleep(_POLL_S)


async def _look(at: Connected, seen: _Seen) -> None:
    (summary,) = [one for one in await at.runs.list() if one.name == seen.run]
    seen.state, seen.serves = summary.state, summary.policy


def _print_lines(seen: _Seen) -> None:
    """Print what is new and will not change any more."""
    done: list[tuple[datetime, Any]] = [
        (lesson.sealed_at, lesson) for lesson in seen.lessons if lesson.sealed_at is not None
    ]
    done += [(order.at, order) for order in seen.orders]
    done.sort(key=lambda one: one[0])
    for _, one in done[seen.told :]:
        print(msgspec.json.encode(one).decode(), flush=True)
    seen.told = len(done)


def _shown(seen: _Seen) -> Group:
    table = Table(box=None, pad_edge=False)
    for column in _COLUMNS:
        table.add_column(column, justify="left" if column in {"version", "decision"} else "right")
    # What fits: a live view that is too long shows its beginning.
    for lesson in seen.lessons[-max(_FEWEST, console().height - _BELOW) :]:
        table.add_row(*_row(lesson))
    said = [f"run {seen.run} is {seen.state}; {seen.serves} serves"]
    said += [
        f"{order.at.astimezone():%T} {order.by}: {order.previous} to {order.policy} {order.reason}"
        for order in seen.orders[-3:]
    ]
    last = next((lesson for lesson in reversed(seen.lessons) if lesson.reasons), None)
    if last is not None:
        said.append(f"batch {last.number}: {'; '.join(last.reasons)}")
    return Group(table, *(Text(line) for line in said))


def _row(lesson: Lesson) -> tuple[str, ...]:
    seconds = [one for one in (lesson.merge_s, lesson.train_s, lesson.guard_s) if one is not None]
    return (
        str(lesson.number),
        lesson.policy,
        _whole(lesson.groups),
        _whole(lesson.rows),
        _share(lesson.reward),
        _share(lesson.parts.get("final")),
        _whole(lesson.stale),
        lesson.candidate or "",
        _share(lesson.score),
        _share(lesson.best),
        _share(lesson.on_holdout),
        lesson.decision,
        " + ".join(f"{one:.0f}" for one in seconds),
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _whole(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}"
