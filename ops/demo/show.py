"""One demonstration on a running stack: make a run, fill it, follow it, sum it up, audit it."""

import asyncio
import time
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

from mia_events.scoring import exact_match
from mia_events.steps import Manifest, ModelChoice
from ops.audit import Report, audit
from ops.benchmark import read_benchmark, seal_and_publish
from ops.connected import Connected
from ops.console import console
from ops.embedded.vllm_server import CHAT_MODEL
from ops.errors import Refused
from ops.manifest import manifest_of
from ops.models import choices, needs_embedded, served_chat_model
from ops.settings import Settings
from ops.story import Line, Story, Told
from storage.postgres.ledger import PostgresLedger
from storage.postgres.watch import Feed, PostgresWatch, QuestionRow

__all__ = ["BRIEF_TOKENS", "Outcome", "show"]

_POLL_S: Final = 0.3
_SILENCE_S: Final = 600.0
_LEAST_WIDTH: Final = 160  # a pipe says 80
_COLUMNS: Final = {
    "#": 4,
    "question": 60,
    "answer": 24,
    "gold": 24,
    "judged": 14,
    "equal": 5,
    "wrote": 5,  # memories
    "used": 5,
}
_BATCH: Final = 5
_ROLLOUTS: Final = 2
_TURNS: Final = 4  # a small model repeats itself for as many as it gets
#: A small model says in this many tokens what it has to say, and the CPU has to make each of them.
BRIEF_TOKENS: Final = {
    "planner": 80,
    "executor": 112,
    "manager": 80,
    "judge": 32,
    "router": 32,
}


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it went: `expected` questions, those that ended exactly once, and the audit.

    `equal` counts answers that equal the gold answer, `reused` questions planned with memories;
    `first_answer_s` is how long the first answer took.
    """

    run: str
    expected: int
    ended_once: int
    equal: int
    reused: int
    first_answer_s: float
    report: Report

    @property
    def good(self) -> bool:
        """Tell whether the promise was kept."""
        return self.ended_once == self.expected > 0 and self.report.exit_code == 0


async def show(
    at: Connected, file: Path, limit: int | None, *, rollouts: int = _ROLLOUTS
) -> Outcome:
    """Run a file's questions and print every step. `at` is connected as `mia_admit`.

    Raises:
        Refused: the file is no questions, or nothing moves any more.
    """
    name = f"demo-{time.strftime('%m%d-%H%M%S')}"
    began = time.monotonic()
    await at.runs.create(name, _manifest(at.settings, rollouts))
    view, _ = await at.ledger.run_named(name)
    done = await seal_and_publish(at, read_benchmark(file), name, limit)
    story = Story()
    feed = Feed(PostgresWatch(at.ledger.pool), view.run_no)
    first = await _follow(at, name, done.total, feed, story)
    await _settle(at)
    equal = await _print_summary(at, view.run_no, story)
    report = await audit(
        at.connections.dsn("mia_audit"), at.connections.kafka, name, closed=True, labels=True
    )
    told = story.questions.values()
    return Outcome(
        run=name,
        expected=done.total,
        ended_once=sum(one.ends == 1 and one.over for one in told),
        equal=equal,
        reused=sum(bool(one.used) for one in told),
        first_answer_s=round(first - began, 1),
        report=report,
    )


def _manifest(settings: Settings, rollouts: int) -> Manifest:
    roles, turns = choices(settings), None
    if needs_embedded(settings) and served_chat_model(settings) == CHAT_MODEL:
        roles, turns = {role: _brief(role, one) for role, one in roles.items()}, _TURNS
    return manifest_of(
        settings,
        mode="batch",
        batch_size=_BATCH,
        rollouts=rollouts,
        lag=0,
        roles=roles,
        max_turns=turns,
    )


def _brief(role: str, choice: ModelChoice) -> ModelChoice:
    # Two plans at temperature 0 would be one plan twice.
    temperature = 0.4 if role == "planner" else choice.temperature
    most = min(choice.max_tokens, BRIEF_TOKENS.get(role, choice.max_tokens))
    return msgspec.structs.replace(choice, max_tokens=most, temperature=temperature)


async def _follow(at: Connected, name: str, total: int, feed: Feed, story: Story) -> float:
    """Print what happens until the run is over; it is closed once it has all its questions.

    Returns when the first answer was seen, on the monotonic clock (the end, if none was).
    """
    closed, quiet_since, first = False, time.monotonic(), 0.0
    while True:
        events = await feed.fresh()
        for event in events:
            if line := story.tell(event):
                _print(line)
        if events:
            quiet_since = time.monotonic()
        if not first and story.events["question.answered"]:
            first = time.monotonic()
        if not closed and story.events["question.asked"] >= total:
            await at.runs.close(name)
            await at.ledger.advance((await at.ledger.run_named(name))[0].run_no)
            closed = True
        if story.events["run.finished"]:
            return first or time.monotonic()
        if time.monotonic() - quiet_since > _SILENCE_S:
            raise Refused(
                f"nothing has happened for {_SILENCE_S:.0f} s", "See `mia status` and `mia logs`."
            )
        await asyncio.sleep(_POLL_S)


async def _settle(at: Connected) -> None:
    """Wait a little for the last answers to be acknowledged by Kafka."""
    for _ in range(100):
        if await PostgresWatch(at.ledger.pool).waiting_facts() == 0:
            return
        await asyncio.sleep(0.1)


def _print(line: Line) -> None:
    out = console()
    out.print(f"{line.who:<6}{line.what:<10}{line.text}", markup=False, style=line.style)


async def _print_summary(at: Connected, run_no: int, story: Story) -> int:
    """Print a line a question; returns how many answers equal their gold answers."""
    auditor = await PostgresLedger.open(at.connections.dsn("mia_audit"), size=1)
    try:
        watch = PostgresWatch(auditor.pool)
        rows, gold = await watch.questions(run_no), await watch.gold(run_no)
    finally:
        await auditor.close()
    table = Table(box=None, pad_edge=False)
    for heading, width in _COLUMNS.items():
        table.add_column(heading, max_width=width, no_wrap=True, overflow="ellipsis")
    for row in rows:
        table.add_row(*_cells(row, gold.get(row.id, ""), story.questions.get(row.id)))
    out = Console(highlight=False, width=max(console().width, _LEAST_WIDTH))
    out.print()
    out.print(table)
    return sum(_equal(row, gold.get(row.id, "")) for row in rows)


def _cells(row: QuestionRow, gold: str, told: Told | None) -> list[str]:
    answer = row.answer if row.answer is not None else f"({row.reason})"
    written, used = (told.written, len(told.used)) if told else (0, 0)
    grade = (row.grade or "").replace("_", " ")
    equal = "yes" if _equal(row, gold) else "no"
    return [str(row.pos + 1), row.text or "", answer, gold, grade, equal, str(written), str(used)]


def _equal(row: QuestionRow, gold: str) -> bool:
    return row.answer is not None and bool(exact_match(row.answer, gold))
