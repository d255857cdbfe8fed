"""core-1: every question ends exactly once, and four workers come to what one comes to."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from ops.chaos.cluster import Stack, cluster
from ops.chaos.survive import baseline
from ops.chaos.trial import Load, Outcome, run_trial
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = "every question ends exactly once; four workers come to the digest of one"
_FULL: Final = (Load(lag=0), Load(lag=1))
_SHORT: Final = (Load(questions=18, rollouts=3, batch_size=6, lag=1),)


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Run each load with one worker and with four (two in the short form)."""
    figures: dict[str, dict[str, Outcome]] = {}
    claims: list[Claim] = []
    for load in _SHORT if short else _FULL:
        one = await baseline(stack, folder / f"one-{load.lag}", load)
        many = await _many(stack, folder / f"many-{load.lag}", load, workers=2 if short else 4)
        figures[f"lag {load.lag}"] = {"one worker": one, "several": many}
        claims += _judge(load, one, many)
    return Evidence(figures=figures, claims=tuple(claims))


async def _many(stack: Stack, folder: Path, load: Load, *, workers: int) -> Outcome:
    async with cluster(stack, folder) as crowd:
        for number in range(1, workers + 1):
            crowd.hire(f"worker-{number}")
        outcome, _ = await run_trial(crowd, "several", load)
    return outcome


def _judge(load: Load, one: Outcome, many: Outcome) -> list[Claim]:
    where = f"lag {load.lag}:"
    total = load.questions
    return [
        Claim(f"{where} all {total} questions were accepted", many.accepted == total),
        Claim(f"{where} one worker: every question ended exactly once, auditor clean", one.whole),
        Claim(
            f"{where} {many.workers} workers: every question ended exactly once, auditor clean",
            many.whole,
        ),
        Claim(
            f"{where} no model call was made twice", one.calls.repeated == 0 == many.calls.repeated
        ),
        Claim(f"{where} equal digests", one.digest == many.digest),
    ]
