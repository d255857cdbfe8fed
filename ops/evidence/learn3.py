"""learn-3: killed trainers, planners and brokers change no bit of any planner version."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Final

from consumers.train.points import POINTS
from mia_events.learning.versions import BASE
from mia_events.steps import RunView
from ops.chaos.cluster import Cluster, Stack
from ops.chaos.doom import Struck, struck
from ops.chaos.kills import Kill, kill_at_random
from ops.chaos.learner import Learned, learn, learning_lab
from ops.chaos.trial import Load, share_done
from ops.evidence.record import Claim, Evidence
from ops.evidence.shaken import judge_shaken, shaken
from ops.worker import TRAIN

__all__ = ["TITLE", "evidence", "judge_struck", "load_of"]

TITLE: Final = "killed trainers, planners and brokers change no bit of any planner version"
_SEED: Final = 3
_TRAINER: Final = "trainer"
_IN_A_ROW: Final = 2


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Train undisturbed, then with a trainer that dies at every point of two updates (one in the
    short form), then under kill -9 of whatever is drawn; and, not in the short form, with real
    vLLM while its parts die.
    """
    load, updates, kills = (load_of(2), 1, 4) if short else (load_of(4), 2, 16)
    async with learning_lab(stack, folder / "lab", planners=2) as lab:
        lab.hire(_TRAINER, (TRAIN,))
        calm, _ = await learn(lab, "calm", load)
        await lab.crew.stop(_TRAINER)
        killed = await struck(lab, folder / "doom", load, updates=updates)
        lab.hire(_TRAINER, (TRAIN,))
        random, drawn = await _at_random(lab, load, kills, calm)
    real = None if short else await shaken()
    hit = dict(Counter(kill.target.partition("-")[0] for kill in drawn))
    return Evidence(
        figures={
            "made by": "verl, on a Llama of two layers; the tokens of all models are scripted",
            "points": POINTS,
            "undisturbed": calm,
            "trainer killed": killed,
            "killed at random": {"seed": _SEED, "by kind": hit, "kills": drawn, "run": random},
            "with real vLLM": real or "not run",
        },
        claims=(
            *_judge_calm(calm),
            *judge_struck(killed, updates),
            *_judge_same("the trainer killed at its points", calm, killed.run),
            Claim(f"{len(drawn)} processes were killed at random: {hit}", len(drawn) == kills),
            *_judge_same("whatever was drawn killed", calm, random),
            *(judge_shaken(real) if real else ()),
        ),
    )


def load_of(batches: int) -> Load:
    """Return a load of so many batches, each of which may become an update."""
    return Load(questions=2 * batches, rollouts=3, batch_size=2, lag=1)


def judge_struck(killed: Struck, updates: int) -> list[Claim]:
    """Claim that the trainer died wherever it was to die."""
    deaths, points = sum(len(one.died) for one in killed.updates), len(POINTS)
    whole = len(killed.updates) == updates and all(one.whole for one in killed.updates)
    return [
        Claim(
            f"the trainer died {deaths} times: at each of {points} points in {updates} updates",
            whole,
        )
    ]


async def _at_random(
    lab: Cluster, load: Load, kills: int, calm: Learned
) -> tuple[Learned, list[Kill]]:
    """Train while workers, Kafka and Postgres are killed."""

    async def trouble(at: Cluster, run: RunView) -> list[Kill]:
        share = share_done(at, run, calm.outcome.events)
        return await kill_at_random(at, kills=kills, seed=_SEED, share=share)

    return await learn(lab, "random", load, trouble)


def _judge_calm(calm: Learned) -> list[Claim]:
    chain = [version.name for version in calm.versions]
    used = sum(count for policy, count in calm.used.items() if policy in chain)
    parents = [version.parent for version in calm.versions]
    return [
        Claim(
            f"undisturbed: {len(chain)} versions, each upon the one before",
            len(chain) >= _IN_A_ROW and parents == [BASE, *chain[:-1]],
        ),
        Claim(f"undisturbed: {used} questions were planned by a version made before", used > 0),
        Claim("undisturbed: the audit is clean", calm.outcome.whole),
    ]


def _judge_same(what: str, calm: Learned, hit: Learned) -> list[Claim]:
    shas = {one.adapter_sha256 for one in hit.versions}
    return [
        Claim(
            f"{what}: the SHA-256 of weights and optimizer of {len(shas)} versions are the same",
            bool(shas) and _shas(calm) == _shas(hit),
        ),
        Claim(
            f"{what}: they were trained on the same {sum(v.rows for v in hit.versions)} turns",
            _rollouts(calm) == _rollouts(hit),
        ),
        Claim(
            f"{what}: digest of the run and versions used are the same",
            (calm.outcome.digest, calm.used) == (hit.outcome.digest, hit.used),
        ),
        Claim(
            f"{what}: no group is in two updates, each job is made again from the ledger, the"
            " audit is clean",
            hit.once and hit.made_again and hit.outcome.whole,
        ),
    ]


def _shas(run: Learned) -> list[tuple[str, str, str]]:
    return [(one.name, one.adapter_sha256, one.optimizer_sha256) for one in run.versions]


def _rollouts(run: Learned) -> list[tuple[object, ...]]:
    return [(one.name, one.groups, one.rows, one.rollouts_sha256) for one in run.versions]
