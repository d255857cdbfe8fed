"""core-3: lost topics delay work and lose nothing; topics that lag get nothing twice."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from mia_events import topics
from mia_events.steps import RunView
from ops.chaos.broker import delete_topic
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
_SHORT: Final = Load(questions=24, rollouts=2, batch_size=8, lag=1)
_LOSE_AT: Final = (0.25, 0.55)
_PENDING: Final = "SELECT count(*) FROM active WHERE run_no = $1 AND topic IS NOT NULL"


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken away, when so much of the run was done, with so many commands pending."""

    what: str
    share: float
    pending: int


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Lose topics in the middle of a run; then let topics lag in another."""
    load, workers = (_SHORT, 2) if short else (_FULL, 4)
    # A lag mostly waits; a wipe would take its topics too, so that comes afterwards.
    peace, lagging = await asyncio.gather(
        baseline(stack, folder / "peace", load), lag_trial(stack, folder / "lag", short=short)
    )
    robbed, losses = await _robbed(stack, folder / "robbed", load, peace.events, workers)
    figures = {"peace": peace, "robbed": robbed, "losses": losses, "lag": lagging}
    return Evidence(figures=figures, claims=(*_robbery(peace, robbed, losses), *_storm(lagging)))


async def _robbed(
    stack: Stack, folder: Path, load: Load, events: int, workers: int
) -> tuple[Outcome, list[Loss]]:
    async def trouble(lab: Cluster, run: RunView) -> list[Loss]:
        # What is not accepted yet is not promised: its sender would have to send it again.
        await lab.until_accepted(run, load.questions)
        deleted = await _lose(lab, run, events, _LOSE_AT[0])
        await delete_topic(lab, topics.EXECUTE)
        wiped = await _lose(lab, run, events, _LOSE_AT[1])
        await stack.wipe_kafka()
        return [
            msgspec.structs.replace(deleted, what=f"topic {topics.EXECUTE}"),
            msgspec.structs.replace(wiped, what="Kafka's folder"),
        ]

    async with cluster(stack, folder) as lab:
        for number in range(1, workers + 1):
            lab.hire(f"worker-{number}")
        outcome, losses = await run_trial(lab, "robbed", load, trouble)
    return outcome, losses


async def _lose(lab: Cluster, run: RunView, events: int, due: float) -> Loss:
    """Wait until so much is done; what is pending then."""
    share = share_done(lab, run, events)

    async def enough() -> bool:
        return await share() >= due

    await until(f"{due:.0%} of the run is done", enough, limit_s=900, every_s=0.1)
    pending = await lab.desk.value(_PENDING, run.run_no)
    return Loss(what="", share=round(await share(), 3), pending=int(pending))


def _robbery(peace: Outcome, robbed: Outcome, losses: list[Loss]) -> list[Claim]:
    # The topics hold what was sent since the wipe. What was pending then is sent once more by the
    # sweeper, and at most once by a publisher that still had it in hand.
    again, bound = sum(robbed.sent_again.values()), losses[-1].pending
    return [
        Claim("a topic was deleted and Kafka was wiped before the end", losses[-1].share < 1.0),
        Claim("every question ended exactly once, auditor clean", robbed.whole),
        Claim("equal digests with and without the losses", peace.digest == robbed.digest),
        Claim("nothing was dead-lettered", robbed.dead_letters == 0),
        Claim(
            f"since the wipe {again} records were sent again, at most the {bound} pending then",
            again <= bound,
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
            "s: none was sent again",
            lagging.left_by_slow > 0 and lagging.again_slow == 0,
        ),
        Claim(
            f"while it was stopped, {lagging.again_stopped} were sent again, at most the "
            f"{lagging.held} that it held and the {lagging.unmarked} whose place it had not noted",
            lagging.again_stopped <= lagging.held + lagging.unmarked,
        ),
        Claim("the lagging run ended, auditor clean", lagging.outcome.whole),
    ]
