"""main-3: with other labels every request and event stays as it was: no label leaks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from consumers.stages import STAGES
from mia_events.steps import Stage
from ops.chaos.cluster import Stack, cluster, scripted_manifest
from ops.chaos.trial import Load, outcome_of, run_trial
from ops.errors import Refused
from ops.evidence.main2 import KEPT
from ops.evidence.record import Claim, Evidence
from ops.evidence.streaming import RUN
from ops.evidence.user import user
from ops.replay import Replayed, replay
from storage.postgres.replay import Recording, read_recording

__all__ = ["TITLE", "evidence", "other_labels"]

TITLE: Final = "replayed with other labels, every request but the judge's is byte for byte the same"
_LEAKY: Final = "tests.support.leaky_stages"


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Replay the run that main-2 kept, then a scripted one, with its labels and with others; then
    one whose judge leaks. Compare two runs without a supervised judge that differ in their labels.
    The short form leaves main-2's run out.

    Raises:
        Refused: main-2 has not run here.
    """
    real = {} if short else await _kept()
    load = Load(questions=12 if short else 100, rollouts=2, batch_size=6, lag=1)
    sound = await _recorded(stack, folder / "sound", load)
    leaky = await _recorded(stack, folder / "leaky", load, _LEAKY)
    stages: Mapping[str, Stage] = importlib.import_module(_LEAKY).STAGES
    found = {
        "its own labels": replay(sound, STAGES),
        "other labels": replay(sound, STAGES, other_labels(sound)),
        "a leak, its own labels": replay(leaky, stages),
        "a leak, other labels": replay(leaky, stages, other_labels(leaky)),
    }
    reviewed = await _reviewed(stack, folder, load)
    figures = {name: _told(one) for name, one in (real | found).items()}
    claims = (*_judge(found), *(_judge_real(name, one) for name, one in real.items()))
    alike = Claim(
        "judged by reviewers, the digest is the same with other labels",
        len(set(reviewed.values())) == 1,
    )
    return Evidence(
        figures={**figures, "digests without a label": reviewed}, claims=(*claims, alike)
    )


async def _kept() -> dict[str, Replayed]:
    """Replay the run of real vLLM that main-2 kept, in a stack without workers and models."""
    if not KEPT.exists():
        raise Refused(f"{KEPT} is not there", "Run `make evidence ITEM=main-2` first.")
    bare = {"MIA_EMBEDDED__WORKERS": "false", "MIA_EMBEDDED__MODELS": "false"}
    async with user(**bare) as someone:
        await someone.mia("restore", str(KEPT))
        await someone.mia("up")
        own = await someone.mia("replay", RUN, "--json", may_fail=True)
        other = await someone.mia("replay", RUN, "--json", "--other-labels", may_fail=True)
    decode = msgspec.json.Decoder(Replayed).decode
    return {
        "real vLLM, its own labels": decode(own.lines[-1]),
        "real vLLM, other labels": decode(other.lines[-1]),
    }


def _judge_real(name: str, found: Replayed) -> Claim:
    whole = found.same and found.requests > 0 and found.skipped == 0
    return Claim(f"{name}: {found.requests} requests of {found.steps} steps, all the same", whole)


async def _reviewed(stack: Stack, folder: Path, load: Load) -> dict[str, str]:
    """Return the digests of a run judged by reviewers, with its labels and with others."""
    manifest = scripted_manifest(
        rollouts=load.rollouts, batch_size=load.batch_size, lag=load.lag, judge="unsupervised"
    )
    labels = {"its own labels": load.asked()}
    labels["other labels"] = [replace(one, label=f"other {one.row}") for one in load.asked()]
    digests = {}
    for name, asked in labels.items():
        async with cluster(stack, folder / f"reviewed {name}".replace(" ", "-")) as lab:
            lab.hire("worker")
            run = await lab.create_run("reviewed", manifest)
            await lab.ask(run, asked)
            await lab.until_accepted(run, load.questions)
            await lab.close_run(run)
            await lab.until_ended(run)
            digests[name] = (await outcome_of(lab, run, lag=load.lag, seconds=0)).digest
    return digests


def other_labels(recording: Recording) -> dict[Any, str]:
    """Return a label for each question that is nobody's."""
    return {question: f"other {question.hex[:12]}" for question in recording.questions}


async def _recorded(stack: Stack, folder: Path, load: Load, handlers: str = "") -> Recording:
    changes = {"handlers": handlers} if handlers else {}
    async with cluster(stack, folder, **changes) as lab:
        lab.hire("worker")
        await run_trial(lab, "labels", load)
        return await read_recording(lab.audit_dsn, "labels")


def _told(found: Replayed) -> dict[str, Any]:
    return {
        "steps": found.steps,
        "requests compared": found.requests,
        "judge's requests, not compared": found.not_compared,
        "differences": len(found.differences),
        "first": [f"{one.command}: {one.what}" for one in found.differences[:3]],
    }


def _judge(found: Mapping[str, Replayed]) -> list[Claim]:
    own, other = found["its own labels"], found["other labels"]
    planted, caught = found["a leak, its own labels"], found["a leak, other labels"]
    return [
        Claim(
            f"{own.steps} steps taken again: {own.requests} requests, all the same",
            own.same and own.steps > 0,
        ),
        Claim(
            f"with other labels too: {other.requests} requests outside the judge's",
            other.same and other.requests > 0 and other.not_compared > 0,
        ),
        Claim("a run whose judge leaks replays as it was recorded", planted.same),
        Claim("with other labels the leak is found", not caught.same),
    ]
