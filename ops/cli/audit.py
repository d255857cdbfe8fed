"""`mia audit`: whether the ledger and the topics are whole."""

import asyncio
import sys
from itertools import groupby
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from ops.audit import CannotAudit, Report, RunReport, audit, to_json
from ops.audit.report import UNABLE
from ops.connect import connections
from ops.console import console
from ops.errors import Refused
from ops.settings import load_settings

__all__ = ["audits", "examine", "print_report"]

audits = App(
    name="audit",
    help=(
        "Audit a run, or all: every question ended once, every step once, chains, joins, topics;"
        " or the weights of planner versions.\n\n"
        "Exit status 0: clean; 1: faults; 2: it cannot be told."
    ),
)
audits.command(
    "ops.cli.audit_weights:weights",
    name="weights",
    help="Make planner versions again from the ledger, and compare them bit by bit.",
)

_ROLE = "mia_audit"
_Flag = Parameter(negative="")


@audits.default
def examine(
    run: str = "",
    /,
    *,
    closed: Annotated[bool, _Flag] = False,
    labels: Annotated[bool, _Flag] = False,
    no_topics: Annotated[bool, _Flag] = False,
    show: int = 5,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Audit a run, or all.

    Args:
        run: The run's name; all runs without one.
        closed: A question that is still open is a fault.
        labels: Also count where gold values occur outside the sealed schema.
        no_topics: Leave Kafka out.
        show: How many faults of each kind to show.
        as_json: Print JSON; also what a pipe gets.
    """
    try:
        report = asyncio.run(
            _audit(run or None, closed=closed, labels=labels, no_topics=no_topics, keep=show)
        )
    except (CannotAudit, Refused) as error:
        Console(stderr=True, soft_wrap=True).print(f"mia: {error}", markup=False, style="red")
        sys.exit(UNABLE)
    if as_json or not sys.stdout.isatty():
        print(to_json(report).decode())
    else:
        print_report(report)
    sys.exit(report.exit_code)


async def _audit(
    run: str | None, *, closed: bool, labels: bool, no_topics: bool, keep: int
) -> Report:
    where = connections(load_settings())
    kafka = None if no_topics else where.kafka
    return await audit(where.dsn(_ROLE), kafka, run, closed=closed, labels=labels, keep=keep)


def print_report(report: Report) -> None:
    """Print a report for a person to read."""
    for run in report.runs:
        _print_run(run)
    _print_topics(report)
    _print_faults(report)
    verdict = "[green]clean[/]" if report.clean else f"[red]{sum(report.counts.values())} faults[/]"
    partly = "" if report.complete else ", as far as it could be read"
    console().print(f"{verdict}{partly} ({report.seconds:.1f} s)")


def _print_run(run: RunReport) -> None:
    say = console().print
    say(f"run {run.name} ({run.mode}, {run.state})", markup=False, style="bold")
    say(
        f"  {run.accepted} questions: {run.answered} answered, {run.failed} failed, {run.ended} "
        f"ended, {run.accepted - run.ended} open; {run.rollouts} rollouts, {run.batches} batches, "
        f"generation {run.sealed_generation}"
    )
    say(
        f"  {run.events} events in {run.streams} streams, {run.effects} effects, {run.memories} "
        f"memory versions, {run.dead_letters} dead letters, {run.erased} payloads erased, "
        f"{run.unacknowledged} facts not yet acknowledged"
    )
    if run.labels is not None:
        found = run.labels
        say(
            f"  {found.labels} gold values, of which occur in events {found.events}, effects "
            f"{found.effects}, memories {found.memories}, dead letters {found.dead_letters}"
        )
    for one in run.open:
        say(f"  open: question {one.position} is {one.status} ({one.id})", markup=False)
    say(f"  digest {run.digest}")


def _print_topics(report: Report) -> None:
    if report.topics_unread:
        console().print(f"topics not audited: {report.topics_unread}", markup=False, style="yellow")
        return
    names = ("topic", "records", "events", "sent again", "refused", "other runs'")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(names):
        table.add_column(name, justify="right" if number else "left")
    for topic in report.topics:
        row = (topic.records, topic.events, topic.repeats, topic.refused, topic.others)
        table.add_row(topic.topic, *map(str, row))
    console().print(table)
    if report.topics_missing:
        missing = ", ".join(report.topics_missing)
        console().print(f"not in the broker: {missing}", markup=False, style="yellow")


def _print_faults(report: Report) -> None:
    ordered = sorted(report.faults, key=lambda fault: fault.check)
    for check, faults in groupby(ordered, key=lambda fault: fault.check):
        console().print(f"{check}: {report.counts[check]}", markup=False, style="red")
        for fault in faults:
            where = " ".join(filter(None, (fault.run, str(fault.stream or ""))))
            console().print(f"  {where}: {fault.what}", markup=False)
