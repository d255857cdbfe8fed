"""core-3: lost topics delay work and lose nothing; topics that lag get nothing twice."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final
from uuid import UUID

import msgspec

from mia_events import topics
from mia_events.steps import RunView
from ops.chaos.broker import delete_topic, records_of
from ops.chaos.cluster import Cluster, Stack, cluster
from ops.chaos.desk import until
from ops.chaos.survive import baseline
from ops.chaos.trial import Load, Outcome, run_trial, share_done
from ops.evidence.lag import Lagging, lag_trial
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = (
    "topics deleted and Kafka wiped in the middle: the same verdict, and no republish storm"
)
_FULL: Final = Load(lag=1)
#: Its calls take a while each, so that it cannot end between two looks at how much is done.
_SHORT: Final = Load(questions=24, rollouts=2, batch_size=8, lag=1, words=" [[sleep 0.5]]")
_LOSE_AT: Final = (0.25, 0.55)
#: Longer than a busy machine takes to commit, send and mark: what is slower counts as unsent.
_GRACE_S: Final = 8.0
#: So few that commands wait in their topics through several sweeps: a storm would show.
_SLOTS: Final = 4
#: A record is sent by a publisher that had it in hand all the while, by a sweeper between the
#: moment when its topic was made anew and that when all marks of before were erased, and after it.
_MOST: Final = 2
_LOOK_S: Final = 0.5
_PENDING: Final = "SELECT count(*) FROM active WHERE run_no = $1 AND topic IS NOT NULL"
#: Commands that nobody had done when the topics were made anew and that were appended before, and
#: those whose worker lost them.
_UNSETTLED: Final = """
WITH made AS (SELECT min(created_at) AS first, max(created_at) AS last FROM topic)
SELECT e.id FROM event AS e CROSS JOIN made AS m
LEFT JOIN event AS n ON n.run_no = e.run_no AND n.stream = e.stream AND n.seq = e.seq + 1
WHERE e.run_no = (SELECT run_no FROM run WHERE name = $1) AND e.topic IS NOT NULL
  AND (n.at IS NULL OR n.at > m.first) AND (e.at < m.last OR n.attempt > 1)
"""
#: Commands that have had no place in a topic for long: some producers need seconds to find topics
#: that were made anew. Whatever is swept for that reason has been without for the whole grace.
_UNSENT: Final = """
SELECT pending FROM active
WHERE topic IS NOT NULL AND claim IS NULL AND sent_offset IS NULL
  AND updated_at < clock_timestamp() - $1::interval
"""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken away, when so much of the run was done, with so many commands pending."""

    what: str
    share: float
    pending: int


class Again(msgspec.Struct, frozen=True, kw_only=True):
    """What the topics hold twice since the wipe: `commands`, of which `astray` had no reason to be
    sent again. Those that have one are `unsettled`, when the topics were made anew or because their
    worker lost them, or `unsent` for long. `most`: the most repeats of one record, facts too.
    """

    commands: int
    astray: int
    unsettled: int
    unsent: int
    most: int


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Lose topics in the middle of a run; then let topics lag in another."""
    load, workers = (_SHORT, 2) if short else (_FULL, 4)
    # A lag mostly waits; a wipe would take its topics too, so that comes afterwards.
    peace, lagging = await asyncio.gather(
        baseline(stack, folder / "peace", load), lag_trial(stack, folder / "lag", short=short)
    )
    robbed, losses, again = await _robbed(stack, folder / "robbed", load, peace.events, workers)
    told = {"peace": peace, "robbed": robbed, "losses": losses, "again": again, "lag": lagging}
    claims = (*_robbery(peace, robbed, losses, again), *_storm(lagging))
    return Evidence(figures=told, claims=claims)


async def _robbed(
    stack: Stack, folder: Path, load: Load, events: int, workers: int
) -> tuple[Outcome, list[Loss], Again]:
    unsent: set[UUID] = set()

    async def trouble(lab: Cluster, run: RunView) -> list[Loss]:
        # What is not accepted yet is not promised: its sender would have to send it again.
        await lab.until_accepted(run, load.questions)
        deleted = await _lose(lab, run, events, _LOSE_AT[0])
        await delete_topic(lab, topics.EXECUTE)
        wiped = await _lose(lab, run, events, _LOSE_AT[1])
        unsent.clear()
        await stack.wipe_kafka()
        return [
            msgspec.structs.replace(deleted, what=f"topic {topics.EXECUTE}"),
            msgspec.structs.replace(wiped, what="Kafka's folder"),
        ]

    async with cluster(stack, folder, grace_s=_GRACE_S) as lab:
        for number in range(1, workers + 1):
            lab.hire(f"worker-{number}", slots=_SLOTS)
        async with _watching(lab, unsent):
            outcome, losses = await run_trial(lab, "robbed", load, trouble)
        return outcome, losses, await _again(lab, outcome.run, unsent)


@asynccontextmanager
async def _watching(lab: Cluster, unsent: set[UUID]) -> AsyncIterator[None]:
    """Collect the commands that are unsent for half the grace, so that none is missed."""

    async def watch() -> None:
        while True:
            rows = await lab.desk.rows(_UNSENT, timedelta(seconds=_GRACE_S / 2))
            unsent.update(row["pending"] for row in rows)
            await asyncio.sleep(_LOOK_S)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching


async def _lose(lab: Cluster, run: RunView, events: int, due: float) -> Loss:
    """Wait until so much is done; what is pending then."""
    share = share_done(lab, run, events)

    async def enough() -> bool:
        return await share() >= due

    await until(f"{due:.0%} of the run is done", enough, limit_s=900, every_s=0.1)
    pending = await lab.desk.value(_PENDING, run.run_no)
    return Loss(what="", share=round(await share(), 3), pending=int(pending))


async def _again(lab: Cluster, run: str, unsent: set[UUID]) -> Again:
    """Look for what lies twice in topics, which hold what was sent since they were wiped."""
    repeats: Counter[tuple[str, UUID]] = Counter()
    for name, records in (await records_of(lab, *topics.COMMANDS, *topics.OUTBOUND)).items():
        repeats.update((name, record.wire.id) for record in records if record.wire is not None)
    repeats = +Counter({key: count - 1 for key, count in repeats.items()})
    unsettled = {row["id"] for row in await lab.desk.rows(_UNSETTLED, run)}
    commands = {id_ for name, id_ in repeats if name in topics.COMMANDS}
    return Again(
        commands=len(commands),
        astray=len(commands - unsettled - unsent),
        unsettled=len(unsettled),
        unsent=len(unsent - unsettled),
        most=max(repeats.values(), default=0),
    )


def _robbery(peace: Outcome, robbed: Outcome, losses: list[Loss], again: Again) -> list[Claim]:
    return [
        Claim("a topic was deleted and Kafka was wiped before the end", losses[-1].share < 1.0),
        Claim("every question ended exactly once, auditor clean", robbed.whole),
        Claim("equal digests with and without the losses", peace.digest == robbed.digest),
        Claim("nothing was dead-lettered", robbed.dead_letters == 0),
        Claim(
            f"since the wipe {again.commands} commands were sent again, all of them among the "
            f"{again.unsettled} that were pending when the topics were made anew or lost their "
            f"worker, and {again.unsent} others that were not in a topic for long",
            again.unsettled > 0 and again.astray == 0,
        ),
        Claim(
            f"since the wipe no record was sent again more than {again.most} times, "
            f"{_MOST} at most",
            again.most <= _MOST,
        ),
    ]


def _storm(lagging: Lagging) -> list[Claim]:
    return [
        Claim(
            f"{lagging.waiting} commands lay {lagging.idle_s:g} s in their topics with nobody to "
            f"take them ({lagging.sweeps} sweeps at least): none was sent again",
            lagging.waiting > 0 and lagging.again_idle == 0,
        ),
        Claim(
            f"a slow worker left {lagging.left_by_slow} commands waiting after {lagging.slow_s:g} "
            "s: none that was marked and that nobody had taken was sent again",
            lagging.left_by_slow > 0 and lagging.again_slow == 0,
        ),
        Claim(
            f"while it was stopped, {lagging.again_stopped} were sent again, all of them among the "
            f"{lagging.held} that it held and the {lagging.unmarked} whose place it had not noted, "
            f"none of the {lagging.left_by_stopped} that lay marked in their topics",
            lagging.left_by_stopped > 0 and lagging.astray == 0,
        ),
        Claim("the lagging run ended, auditor clean", lagging.outcome.whole),
    ]
