"""A run that trains on the embedded stack, with real vLLM and real verl, and what it left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from ops.errors import Refused
from ops.evidence.streaming import SMALL, benchmark_file, facts
from ops.evidence.updates import Answered, Meanwhile, Update, answered, updates, while_training
from ops.evidence.user import User, user
from ops.evidence.watching import watching
from ops.manifest import code_version

__all__ = ["Ran", "Trial", "learning_run"]

_RUN: Final = "ttrl"
#: A small model says little, and a CPU has to make each token of it.
_SETTINGS: Final = {
    **SMALL,
    "MIA_TRAINING__ENABLED": "true",
    "MIA_MODELS__EXECUTOR__SAMPLING__MAX_TOKENS": "80",
    "MIA_MODELS__MANAGER__SAMPLING__MAX_TOKENS": "48",
    "MIA_MODELS__JUDGE__SAMPLING__MAX_TOKENS": "32",
}
_CHOSEN: Final = ("--lag", "1", "--max-turns", "3", "--lr", "2e-5", "--guard-rollouts", "1")
_LIMIT_S: Final = 4_500.0
_ENDS: Final = """
SELECT count(*) AS questions,
       count(*) FILTER (WHERE q.status = 'answered' AND q.closed) AS answered,
       count(*) FILTER (WHERE q.status = 'failed') AS failed,
       (SELECT count(*) FROM rollout AS r WHERE r.run_no = u.run_no) AS rollouts,
       (SELECT count(*) FROM rollout AS r WHERE r.run_no = u.run_no
        AND r.outcome NOT IN ('correct', 'incorrect', 'not_attempted')) AS rollouts_not_graded,
       (SELECT count(*) FROM dead_letter AS d WHERE d.run_no = u.run_no) AS dead_letters,
       (SELECT count(*) FROM event AS e WHERE e.run_no = u.run_no AND e.attempt > 1) AS tried_again
FROM question AS q JOIN run AS u ON u.run_no = q.run_no WHERE u.name = $1 GROUP BY u.run_no
"""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How much is run. `weights`: whether versions are made again from the ledger at the end."""

    batches: int
    batch_size: int
    rollouts: int = 4
    anchors: int = 2
    weights: bool = True

    @property
    def questions(self) -> int:
        """How many are asked."""
        return self.batches * self.batch_size


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """What a trial left, at which commit. `answers`: by version, as `mia answers` tells; `ends` and
    `meanwhile` are counts of the ledger, `memory` GiB.
    """

    trial: Trial
    commit: str
    made: list[Update]
    answered: list[Answered]
    meanwhile: list[Meanwhile]
    ends: dict[str, int]
    answers: dict[str, int]
    audit: dict[str, Any]
    clean: bool
    weights: list[dict[str, Any]]
    report: dict[str, Any]
    memory: dict[str, float]
    seconds: float


async def learning_run(trial: Trial) -> Ran:
    """Ask a benchmark's questions in batches, and train on each while the next is answered."""
    async with user(**_SETTINGS) as someone:
        await someone.mia("up")
        questions, anchors = _files(someone.home, trial)
        loop = asyncio.get_running_loop()
        async with watching(someone.home) as seen:
            await someone.mia(*_creation(trial, anchors))
            began = loop.time()
            await _asked(someone, trial, questions)
            seconds = round(loop.time() - began, 1)
        made = await updates(someone, _RUN, seen.served)
        audit = await someone.audited(_RUN)
        (report,) = await someone.told("report", _RUN)
        return Ran(
            trial=trial,
            commit=code_version(),
            made=made,
            answered=await answered(someone, _RUN),
            meanwhile=await while_training(someone, _RUN, made),
            ends=dict((await facts(someone, _ENDS, _RUN))[0]),
            answers=await _answers(someone),
            audit=audit["said"],
            clean=audit["clean"],
            weights=await _weights(someone, made) if trial.weights else [],
            report={name: report[name] for name in ("times", "tokens", "judges", "replans")},
            memory=seen.memory(),
            seconds=seconds,
        )


async def _asked(someone: User, trial: Trial, questions: Path) -> None:
    await someone.mia("ingest", str(questions), "--run", _RUN)
    asked = trial.questions
    await someone.until(_RUN, lambda run: bool(run["accepted"] == asked), limit_s=300)
    await someone.mia("run", "close", _RUN)
    await someone.until(_RUN, lambda run: bool(run["state"] == "ended"), limit_s=_LIMIT_S)


def _files(folder: Path, trial: Trial) -> tuple[Path, Path]:
    """Write the questions, and anchors that are none of them, as files of the benchmark's form."""
    rows = json.loads(benchmark_file().read_text())
    if trial.questions + trial.anchors > len(rows):
        raise Refused(f"{benchmark_file()} has {len(rows)} rows", "Take one with more of them.")
    parts = {"questions": rows[: trial.questions], "anchors": rows[-trial.anchors :]}
    paths = {name: folder / f"{name}.json" for name in parts}
    for name, part in parts.items():
        paths[name].write_text(json.dumps(part))
    return paths["questions"], paths["anchors"]


def _creation(trial: Trial, anchors: Path) -> list[str]:
    """The command that makes the run."""
    groups = ("--rollouts", str(trial.rollouts), "--batch-size", str(trial.batch_size))
    guard = ("--anchors", str(anchors), "--anchor-limit", str(trial.anchors))
    return ["run", "create", _RUN, "--train", *_CHOSEN, *groups, *guard]


async def _answers(someone: User) -> dict[str, int]:
    """How many answers each version gave, as `mia answers` tells."""
    found: dict[str, int] = {}
    for line in await someone.told("answers", "--run", _RUN):
        if line["type"] == "question.answered":
            found[line["policy"]] = found.get(line["policy"], 0) + 1
    return found


async def _weights(someone: User, made: Sequence[Update]) -> list[dict[str, Any]]:
    """Make the newest version that serves, and those before it, again from the ledger."""
    last = next((one.candidate for one in reversed(made) if one.training == "promoted"), "")
    if not last:
        return []
    return await someone.told("audit", "weights", "--run", _RUN, "--to", last, may_fail=True)
