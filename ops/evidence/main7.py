"""main-7: a backup of the middle of a run goes on in an empty stack, to the same digest."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final

from ops.chaos.questions import Asked, cities
from ops.chaos.scripted import scripted_model
from ops.evidence.record import Claim, Evidence
from ops.evidence.user import User, user

__all__ = ["TITLE", "evidence", "hotpot_file", "scripted_settings"]

TITLE: Final = "a backup restored into an empty stack goes on to the same digest, auditor clean"
_RUN: Final = "kept"
_LIMIT_S: Final = 600.0


async def evidence(*, short: bool = False) -> Evidence:
    """Back a run up in the middle and at its end; restore each into a stack of its own (in the
    short form only what was saved in the middle).
    """
    questions = 24 if short else 80
    async with AsyncExitStack() as open_:
        folder = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="mia-backup-")))
        model = await open_.enter_async_context(scripted_model())
        settings = scripted_settings(model.base_url)
        first = await open_.enter_async_context(user(**settings))
        middle, end = folder / "middle.tar", folder / "end.tar"
        figures: dict[str, Any] = {}
        figures["first"] = await _first(first, folder, questions, middle, end)
        await first.mia("down")
        for name, backup in (("middle", middle),) if short else (("middle", middle), ("end", end)):
            async with user(**settings) as other:
                figures[f"restored {name}"] = await _second(other, backup)
    return Evidence(figures=figures, claims=tuple(_judge(figures, questions)))


def scripted_settings(base_url: str) -> dict[str, str]:
    """Return the settings of a small stack whose every role is the scripted model."""
    return {
        "MIA_MODELS__DEFAULT__BASE_URL": base_url,
        "MIA_MODELS__DEFAULT__MODEL": "scripted",
        "MIA_EMBEDDED__POSTGRES_WAL_MB": "64",
        "MIA_EMBEDDED__KAFKA_HEAP_MB": "384",
    }


def hotpot_file(path: Path, questions: Sequence[Asked]) -> Path:
    """Write questions in HotpotQA's format."""
    rows = [
        {
            "_id": f"city-{asked.row}",
            "question": asked.text,
            "answer": asked.label,
            "context": [[title, [text]] for title, text in asked.documents],
        }
        for asked in questions
    ]
    path.write_text(json.dumps(rows))
    return path


async def _first(
    first: User, folder: Path, questions: int, middle: Path, end: Path
) -> dict[str, Any]:
    await first.mia("up")
    batches = ("--mode", "batch", "--batch-size", "6", "--rollouts", "2", "--lag", "1")
    await first.mia("run", "create", _RUN, *batches, "--deterministic", "--seed", "7")
    # The last batch takes its time, so that something is left to do when the backup is made.
    asked = cities(questions, " [[sleep 1]]")[:-6] + cities(questions, " [[sleep 4]]")[-6:]
    path = hotpot_file(folder / "questions.json", asked)
    await first.mia("ingest", str(path), "--run", _RUN)
    await first.until(_RUN, lambda run: bool(run["accepted"] == questions), limit_s=_LIMIT_S)
    await first.mia("run", "close", _RUN)
    await first.until(_RUN, lambda run: bool(run["ended"] >= questions // 4), limit_s=_LIMIT_S)
    await first.mia("backup", str(middle))
    await first.until(_RUN, lambda run: bool(run["state"] == "ended"), limit_s=_LIMIT_S)
    await first.mia("backup", str(end))
    return _told(await first.audited(_RUN))


async def _second(other: User, backup: Path) -> dict[str, Any]:
    await other.mia("restore", str(backup))
    again = await other.mia("restore", str(backup), may_fail=True)
    await other.mia("up")
    found = await other.run_state(_RUN)
    await other.until(_RUN, lambda run: bool(run["state"] == "ended"), limit_s=_LIMIT_S)
    return _told(await other.audited(_RUN)) | {
        "ended_when_restored": found["ended"],
        "a_second_restore_is_refused": again.status != 0,
    }


def _told(report: dict[str, Any]) -> dict[str, Any]:
    """What counts of an audit."""
    (run,) = report["runs"]
    names = ("accepted", "ended", "answered", "failed", "events", "memories", "digest")
    return {name: run[name] for name in names} | {"clean": report["clean"]}


def _judge(figures: dict[str, Any], questions: int) -> list[Claim]:
    first, middle = figures["first"], figures["restored middle"]
    left = questions - middle["ended_when_restored"]
    return [
        Claim("the run itself: auditor clean", first["clean"]),
        Claim(f"restored with {left} questions to go, the run went on to its end", left > 0),
        Claim(
            f"all {questions} ended exactly once there, auditor clean",
            middle["ended"] == questions and middle["clean"],
        ),
        Claim("to the same digest", middle["digest"] == first["digest"]),
        Claim(
            "a stack that holds data already is not overwritten",
            middle["a_second_restore_is_refused"],
        ),
        *_judge_end(first, figures.get("restored end")),
    ]


def _judge_end(first: dict[str, Any], end: dict[str, Any] | None) -> list[Claim]:
    if end is None:
        return []
    same = end["clean"] and end["digest"] == first["digest"]
    return [Claim("a backup of the end: auditor clean, the same digest", same)]
