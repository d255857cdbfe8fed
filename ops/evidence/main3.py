"""main-3: with other labels every request and event stays as it was: no label leaks."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from consumers.stages import STAGES
from mia_events.steps import Stage
from ops.chaos.cluster import Stack, cluster
from ops.chaos.trial import Load, run_trial
from ops.evidence.record import Claim, Evidence
from ops.replay import Replayed, replay
from storage.postgres.replay import Recording, read_recording

__all__ = ["TITLE", "evidence", "other_labels"]

TITLE: Final = "replayed with other labels, every request but the judge's is byte for byte the same"
_LEAKY: Final = "tests.support.leaky_stages"


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Replay a run with its labels and with others; then one whose judge leaks."""
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
    figures = {name: _told(one) for name, one in found.items()}
    return Evidence(figures=figures, claims=tuple(_judge(found)))


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
