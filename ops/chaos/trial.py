"""One trial: a run of questions, trouble in the middle of it, and what came of both."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from mia_events.steps import RunView
from ops.audit import Report
from ops.chaos.cluster import Cluster, scripted_manifest
from ops.chaos.desk import until
from ops.chaos.questions import Asked, cities
from ops.chaos.repeats import Calls, count_calls

__all__ = [
    "Load",
    "Outcome",
    "Trouble",
    "no_trouble",
    "outcome_of",
    "run_trial",
    "settled_report",
    "share_done",
]

_FACTS_S = 60.0
_BACK_S = 60.0
_EVENTS = "SELECT count(*) FROM event WHERE run_no = $1"
_ATTEMPTS = "SELECT count(*) FROM event WHERE run_no = $1 AND attempt > 1"


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """How much a trial asks for, in the terms of a run's manifest. `words` instruct the script."""

    questions: int = 300
    rollouts: int = 4
    batch_size: int = 20
    lag: int = 0
    words: str = ""

    def asked(self) -> list[Asked]:
        """Return the questions."""
        return cities(self.questions, self.words)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial came to. `sent_again` counts records in the topics of an event that lies there
    already, `retaken` steps that needed more than one attempt, `deaths` unasked ends of workers.
    """

    run: str
    workers: int
    lag: int
    accepted: int
    ended: int
    answered: int
    failed: int
    events: int
    effects: int
    memories: int
    dead_letters: int
    digest: str
    clean: bool
    faults: dict[str, int]
    first_faults: tuple[str, ...]
    sent_again: dict[str, int]
    retaken: int
    deaths: int
    calls: Calls
    seconds: float

    @property
    def whole(self) -> bool:
        """Every accepted question ended exactly once, and no call was repeated without need."""
        ended_once = self.clean and self.accepted == self.ended == self.answered + self.failed
        return ended_once and not self.calls.repeated_after_record


Trouble = Callable[[Cluster, RunView], Awaitable[Any]]


async def no_trouble(_: Cluster, __: RunView) -> None:
    """Leave the cluster alone."""


async def run_trial(
    cluster: Cluster, name: str, load: Load, trouble: Trouble = no_trouble, **chosen: object
) -> tuple[Outcome, Any]:
    """Ask, make trouble while the cluster works, wait for the end; the outcome, and the trouble's.

    Start the workers before. `chosen` are further fields of the run's manifest.
    """
    manifest = scripted_manifest(
        rollouts=load.rollouts, batch_size=load.batch_size, lag=load.lag, **chosen
    )
    await cluster.model.reset()
    run = await cluster.create_run(name, manifest)
    began = time.monotonic()
    troubling = asyncio.ensure_future(trouble(cluster, run))
    try:
        await cluster.ask(run, load.asked())
        await cluster.until_accepted(run, load.questions)
        await cluster.close_run(run)
        troubled = await troubling
        await cluster.until_ended(run)
    finally:
        troubling.cancel()
    return await outcome_of(cluster, run, lag=load.lag, seconds=time.monotonic() - began), troubled


async def outcome_of(cluster: Cluster, run: RunView, *, lag: int, seconds: float) -> Outcome:
    """Audit a run that has ended, and count."""
    report = await settled_report(cluster, run)
    told = report.run(run.name)
    return Outcome(
        run=run.name,
        workers=len(cluster.crew.members),
        lag=lag,
        accepted=told.accepted,
        ended=told.ended,
        answered=told.answered,
        failed=told.failed,
        events=told.events,
        effects=told.effects,
        memories=told.memories,
        dead_letters=told.dead_letters,
        digest=told.digest,
        clean=report.clean and report.complete,
        faults={str(check): count for check, count in report.counts.items()},
        first_faults=_first(report),
        sent_again={t.topic: t.repeats for t in report.topics if t.repeats},
        retaken=await cluster.desk.value(_ATTEMPTS, run.run_no),
        deaths=cluster.crew.deaths,
        calls=await count_calls(cluster, run.run_no),
        seconds=round(seconds, 1),
    )


async def settled_report(cluster: Cluster, run: RunView) -> Report:
    """Audit when the last facts have reached their topics, and Kafka is back."""

    async def acknowledged() -> bool:
        query = "SELECT count(*) FROM outbox WHERE run_no = $1"
        return bool(await cluster.desk.value(query, run.run_no) == 0)

    with contextlib.suppress(TimeoutError):  # the audit says what is missing
        await until("all facts are acknowledged", acknowledged, limit_s=_FACTS_S)
    report = await cluster.audited(run)

    async def readable() -> bool:
        nonlocal report
        report = report if report.complete else await cluster.audited(run)
        return report.complete

    with contextlib.suppress(TimeoutError):  # it says what could not be read
        await until("the topics can be read", readable, limit_s=_BACK_S)
    return report


def _first(report: Report) -> tuple[str, ...]:
    return tuple(
        f"{fault.check} {fault.stream or ''} {fault.seq or ''}: {fault.what}"
        for fault in report.faults[:10]
    )


def share_done(
    cluster: Cluster, run: RunView, expected_events: int
) -> Callable[[], Awaitable[float]]:
    """Return a reading of how much of a run is done, by its number of events."""

    async def share() -> float:
        return float(await cluster.desk.value(_EVENTS, run.run_no)) / expected_events

    return share
