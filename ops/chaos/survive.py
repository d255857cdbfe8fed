"""The same questions twice: by one worker in peace, and by several under random kills."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec

from mia_events.steps import RunView
from ops.chaos.cluster import Cluster, Stack, cluster
from ops.chaos.kills import Kill, kill_at_random
from ops.chaos.trial import Load, Outcome, run_trial, share_done

__all__ = ["Survival", "baseline", "survive"]


class Survival(msgspec.Struct, frozen=True, kw_only=True):
    """Both outcomes, and what was killed in the second."""

    peace: Outcome
    killed: Outcome
    kills: tuple[Kill, ...]
    kinds: dict[str, int]

    @property
    def equal(self) -> bool:
        """True when both came to the same digest."""
        return self.peace.digest == self.killed.digest


async def baseline(stack: Stack, folder: Path, load: Load) -> Outcome:
    """Run a load with one worker that nobody disturbs."""
    async with cluster(stack, folder) as peaceful:
        peaceful.hire("worker-1")
        outcome, _ = await run_trial(peaceful, "peace", load)
    return outcome


async def survive(
    stack: Stack, folder: Path, load: Load, *, kills: int, seed: int, workers: int = 4
) -> Survival:
    """Run a load in peace, then with `workers` under `kills` kill -9 drawn from `seed`."""
    peace = await baseline(stack, folder / "peace", load)

    async def trouble(troubled: Cluster, run: RunView) -> list[Kill]:
        share = share_done(troubled, run, peace.events)
        return await kill_at_random(troubled, kills=kills, seed=seed, share=share)

    async with cluster(stack, folder / "killed") as troubled:
        for number in range(1, workers + 1):
            troubled.hire(f"worker-{number}")
        killed, done = await run_trial(troubled, "killed", load, trouble)
    kinds = Counter(kill.target.partition("-")[0] for kill in done)
    return Survival(peace=peace, killed=killed, kills=tuple(done), kinds=dict(kinds))
