"""`mia report`: a run summed up, as tables or as JSON."""

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec
from cyclopts import Parameter
from rich.markup import escape
from rich.table import Table

from mia_events.learning.rewards import PARTS
from ops.cli.waiting import waiting_for
from ops.connected import connected, run_named
from ops.console import console
from ops.defaults import DEFAULT_RUN
from ops.learning.lessons import TYPES, Lesson
from ops.report import Figures, figures_of
from storage.postgres.summary import PostgresSummary

__all__ = ["print_figures", "report"]

_NONE = "-"


def report(
    run: str = DEFAULT_RUN,
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Sum a run up: accuracy by judge, exact match, F1, steps, tokens, times, memory, failures.

    Times run from a command to the step that handled it, waiting included. Exact match and F1 are
    means over all ended questions with a label.

    Args:
        run: The run.
        as_json: Print JSON; also what a pipe gets.
    """
    figures = waiting_for(_report(run))
    if as_json or not sys.stdout.isatty():
        print(msgspec.json.encode(figures).decode())
    else:
        print_figures(figures)


async def _report(name: str) -> Figures:
    async with connected("mia_audit") as at:
        view, _ = await run_named(at.ledger, name)
        return figures_of(await PostgresSummary(at.ledger.pool).counts(view, learning=TYPES))


def print_figures(figures: Figures) -> None:
    """Print a report for a person to read."""
    say, questions, memory = console().print, figures.questions, figures.memory
    say(f"run {figures.run} ({figures.mode})", markup=False, style="bold")
    say(
        f"{questions.accepted} questions: {questions.answered} answered, {questions.failed} failed"
        f"{_of(questions.reasons)}, {questions.open} open"
    )
    scores = figures.scores
    say(
        f"exact match {_percent(scores.exact_match)}, F1 {_percent(scores.f1)} "
        f"over {scores.labelled} with a label"
    )
    _print_judges(figures)
    say(
        f"{figures.steps} steps ({_number(figures.steps_per_question)} a question), "
        f"{figures.turns} turns, {figures.malformed_turns} malformed, {figures.replans} replans; "
        f"tool calls: {_in_words(figures.tool_calls)}"
    )
    say(
        f"answer after {_number(figures.answer_p50_s)} s (p95 {_number(figures.answer_p95_s)} s), "
        f"end after {_number(figures.end_p50_s)} s (p95 {_number(figures.end_p95_s)} s); "
        f"{_number(figures.questions_per_hour)} questions an hour"
    )
    _print_stages(figures)
    say(
        f"memory: {memory.current} memories in {memory.versions} versions "
        f"({memory.successes} of successes), used by {memory.questions_that_used_it} questions, "
        f"{memory.won} of {memory.credits} credits won"
    )
    say(f"written by generation: {_generations(memory.by_generation)}")
    say(f"failed attempts: {_in_words(figures.rollout_failures)}")
    _print_lessons(figures.lessons)


def _print_judges(figures: Figures) -> None:
    rows = (
        (
            judge.judge,
            judge.kind,
            _percent(judge.accuracy),
            _in_words(judge.grades),
            f"{judge.rollouts_correct} of {judge.rollouts}",
        )
        for judge in figures.judges
    )
    _print_table(("judge", "kind", "accuracy", "official answers", "attempts correct"), rows)


def _print_stages(figures: Figures) -> None:
    spent = {one.stage: one for one in figures.tokens}
    rows = []
    for time in figures.times:
        tokens = spent.get(time.stage)
        rows.append(
            (
                time.stage,
                str(time.steps),
                f"{time.total_s:.1f}",
                f"{time.p50_s:.3f}",
                f"{time.p95_s:.3f}",
                *(
                    (str(tokens.calls), str(tokens.prompt_tokens), str(tokens.completion_tokens))
                    if tokens
                    else ("", "", "")
                ),
            )
        )
    headings = ("stage", "steps", "total s", "p50 s", "p95 s", "calls", "prompt", "completion")
    _print_table(headings, rows)


def _print_lessons(lessons: Sequence[Lesson]) -> None:
    """What came of each batch: what was made of which version, and what was decided; then what its
    rollouts were rewarded for.
    """
    headings = ("batch", "by", "groups", "rows", "age", "ess", "version", "of", "decision")
    rows = (
        (
            str(lesson.number),
            lesson.policy,
            _whole(lesson.groups),
            _whole(lesson.rows),
            _whole(lesson.stale),
            _mean(lesson.metrics.get("ess")),
            lesson.candidate or _NONE,
            lesson.parent or _NONE,
            lesson.decision,
        )
        for lesson in lessons
    )
    _print_table(headings, rows)
    parts = (
        (
            str(lesson.number),
            _mean(lesson.reward),
            *(_mean(lesson.parts.get(part)) for part in PARTS),
        )
        for lesson in lessons
        if lesson.reward is not None
    )
    _print_table(("batch", "reward", *PARTS), parts)


def _print_table(headings: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="right" if place else "left")
    for row in rows:
        table.add_row(*map(escape, row))
    if table.row_count:
        console().print(table)


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share:.1%}"


def _mean(value: float | None) -> str:
    return _NONE if value is None else f"{value:.3f}"


def _whole(value: float | None) -> str:
    return _NONE if value is None else f"{value:.0f}"


def _number(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1f}"


def _generations(counts: Mapping[int, int]) -> str:
    return ", ".join(f"{number}: {n}" for number, n in counts.items()) or _NONE


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in counts.items()) or _NONE


def _of(counts: Mapping[str, int]) -> str:
    return f" ({_in_words(counts)})" if counts else ""
