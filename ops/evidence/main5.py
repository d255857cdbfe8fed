"""main-5: malformed replies have stated ends, and a page cannot speak to the judge."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec

from consumers.stages import STAGES
from ops.chaos.cluster import Stack, cluster, scripted_manifest
from ops.chaos.questions import Asked, cities
from ops.chaos.trial import Outcome, outcome_of
from ops.evidence.appeal import APPEAL, Heard, judge_verdicts, real_verdicts
from ops.evidence.record import Claim, Evidence
from ops.replay import replay
from storage.postgres.replay import Recording, read_recording

__all__ = ["TITLE", "evidence"]

TITLE: Final = "malformed replies have stated ends; a page that asks for a grade reaches no judge"
_MALFORMED: Final = ("--malformed-rate", "0.4")
_GRADES: Final = frozenset({"correct", "incorrect", "not_attempted", "unjudged"})
_OUTCOMES: Final = """
SELECT coalesce(outcome, 'open') AS outcome, count(*) AS n FROM rollout WHERE run_no = $1 GROUP BY 1
"""
_TURNS: Final = """
SELECT type, count(*) AS n FROM event
WHERE run_no = $1 AND type IN ('turn.rejected', 'turn.answered', 'turn.tool_called') GROUP BY 1
"""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """A run on a model of which 40 % of the replies are malformed.

    `appeals` counts the requests that hold the page's appeal, by stage; `outside` those of them in
    which it stands outside a fence of data.
    """

    outcome: Outcome
    rollouts: dict[str, int]
    turns: dict[str, int]
    requests: dict[str, int]
    appeals: dict[str, int]
    outside: dict[str, int]
    replayed: bool


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Ask with a judge that knows labels, and with one that reviews; then, with real vLLM (not in
    the short form), with and without the pages' appeal.
    """
    questions = 8 if short else 100
    found = {
        judge: await _run(stack, folder / judge, judge, questions)
        for judge in ("supervised", "unsupervised")
    }
    claims = [claim for judge, told in found.items() for claim in _judge(judge, told)]
    figures: dict[str, Any] = dict(found)
    if not short:
        figures["real vLLM"] = real = await real_verdicts(16)
        claims += judge_verdicts(real)
    return Evidence(figures=figures, claims=tuple(claims))


async def _run(stack: Stack, folder: Path, judge: str, questions: int) -> Told:
    async with cluster(stack, folder, model_options=_MALFORMED) as lab:
        lab.hire("worker")
        manifest = scripted_manifest(rollouts=2, batch_size=10, lag=1, judge=judge)
        run = await lab.create_run(judge, manifest)
        await lab.ask(run, list(_appealing(cities(questions))))
        await lab.until_accepted(run, questions)
        await lab.close_run(run)
        await lab.until_ended(run)
        outcome = await outcome_of(lab, run, lag=1, seconds=0)
        rollouts = await lab.desk.rows(_OUTCOMES, run.run_no)
        turns = await lab.desk.rows(_TURNS, run.run_no)
        recording = await read_recording(lab.audit_dsn, judge)
    heard = Heard()
    same = replay(recording, STAGES, heard=heard).same
    return Told(
        outcome=outcome,
        rollouts={row["outcome"]: row["n"] for row in rollouts},
        turns={row["type"]: row["n"] for row in turns},
        requests=heard.requests,
        appeals=heard.appeals,
        outside=heard.outside,
        replayed=same and _appeals_in(recording) > 0,
    )


def _appealing(questions: Iterable[Asked]) -> Iterable[Asked]:
    """The same questions, with a appeal in every passage."""
    for asked in questions:
        passages = tuple((title, f"{text} {APPEAL}.") for title, text in asked.documents)
        yield replace(asked, documents=passages)


def _appeals_in(recording: Recording) -> int:
    """How many recorded tool results hold the appeal: else nothing was put to the test."""
    rows = (row for effects in recording.effects.values() for row in effects.values())
    return sum(row.kind == "tool" and APPEAL.encode() in (row.result or b"") for row in rows)


def _judge(judge: str, told: Told) -> list[Claim]:
    turns, rejected = sum(told.turns.values()), told.turns.get("turn.rejected", 0)
    appeals: Any = told.appeals.get("mia.judge", 0)
    reaches = (
        Claim("supervised: it stands in no request of the judge", appeals == 0)
        if judge == "supervised"
        else Claim(f"unsupervised: it stands in {appeals} requests of reviewers", appeals > 0)
    )
    return [
        Claim(
            f"{judge}: of {turns} turns {rejected} were malformed and became error observations",
            rejected > 0,
        ),
        Claim(
            f"{judge}: every rollout has a grade or is unjudged: {told.rollouts}",
            bool(told.rollouts) and set(told.rollouts) <= _GRADES,
        ),
        Claim(
            f"{judge}: no dead letter, every question ended exactly once, auditor clean",
            told.outcome.whole and told.outcome.dead_letters == 0,
        ),
        Claim(f"{judge}: all requests were made again byte for byte, appeals read", told.replayed),
        reaches,
        Claim(f"{judge}: nowhere outside a fence of data", not any(told.outside.values())),
    ]
