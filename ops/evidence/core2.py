"""core-2: random kill -9 of workers, Kafka and Postgres change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ops.chaos.cluster import Stack
from ops.chaos.survive import Survival, survive
from ops.chaos.trial import Load
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence", "judge_survival"]

TITLE: Final = "under random kill -9 of workers, Kafka and Postgres: equal digest, auditor clean"
_SEED: Final = 1


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Run under 50 kills at each lag; the short form has one small run under 10."""
    loads = (_SHORT,) if short else (Load(lag=0), Load(lag=1))
    kills, workers = (10, 2) if short else (50, 4)
    done = [
        await survive(
            stack, folder / f"{load.lag}", load, kills=kills, seed=_SEED + load.lag, workers=workers
        )
        for load in loads
    ]
    return judge_survival(done, kills=kills)


#: Calls take some time, so that kills hit work that is under way.
_SHORT: Final = Load(questions=24, rollouts=3, batch_size=8, lag=1)


def judge_survival(done: Sequence[Survival], *, kills: int) -> Evidence:
    """Judge runs under so many kills each."""
    claims = [claim for survival in done for claim in _claims(survival, kills)]
    figures = {f"lag {survival.killed.lag}": survival for survival in done}
    return Evidence(figures=figures, claims=tuple(claims))


def _claims(survival: Survival, kills: int) -> list[Claim]:
    where, calls = f"lag {survival.killed.lag}:", survival.killed.calls
    return [
        Claim(f"{where} {kills} processes were killed in the run", len(survival.kills) == kills),
        Claim(
            f"{where} workers, Kafka and Postgres were all among them",
            {"worker", "kafka", "postgres"} <= set(survival.kinds),
        ),
        Claim(f"{where} in peace: every question ended exactly once", survival.peace.whole),
        Claim(
            f"{where} under kills: every question ended exactly once, auditor clean",
            survival.killed.whole,
        ),
        Claim(f"{where} nothing was dead-lettered", survival.killed.dead_letters == 0),
        Claim(f"{where} equal digests", survival.equal),
        Claim(
            f"{where} of {calls.repeated} repeated model calls none had a recorded result",
            calls.repeated_after_record == 0,
        ),
    ]
