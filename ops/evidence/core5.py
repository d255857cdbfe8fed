"""core-5: an event that kills its worker is dead-lettered; the innocent are spared."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Final

import msgspec

from mia_events.policies.lease import IsolationPolicy
from ops.chaos.cluster import Stack, cluster, scripted_manifest
from ops.chaos.questions import Asked, cities
from ops.chaos.trial import Outcome, outcome_of
from ops.evidence.record import Claim, Evidence

__all__ = ["TITLE", "evidence"]

TITLE: Final = "an event whose handler ends its process is dead-lettered, and its group still ends"
#: The module of the tests whose executor dies of these words in a question.
_HANDLERS: Final = "tests.support.deadly_stages"
_DEADLY: Final = " [[die]]"
#: A death is noticed when the lease has run out, and its command sent again after the grace.
_QUICK: Final[dict[str, Any]] = {"lease_s": 2.0, "grace_s": 1.0, "sweep_every_s": 0.5}
_LETTERS: Final = """
SELECT d.stream, d.error_class, d.message, d.attempts, r.question, d.origin
FROM dead_letter AS d LEFT JOIN rollout AS r ON r.id = d.stream WHERE d.run_no = $1
"""
#: How a rollout ends that nothing failed. The scripted model leaves some questions unanswered.
_GRADES: Final = frozenset({"correct", "incorrect", "not_attempted", "unjudged"})
_QUESTIONS: Final = """
SELECT q.id, q.pos, q.status, q.reason, q.g, q.ended,
       ARRAY(SELECT coalesce(r.outcome, 'none') FROM rollout AS r WHERE r.question = q.id
             ORDER BY r.number) AS outcomes
FROM question AS q WHERE q.run_no = $1
"""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """A dead letter: of a deadly question or not, after how many attempts, in what words."""

    deadly: bool
    attempts: int
    message: str


async def evidence(stack: Stack, folder: Path, *, short: bool = False) -> Evidence:
    """Ask deadly questions among innocent ones."""
    innocent, deadly = (6, 1) if short else (40, 3)
    began, rollouts = time.monotonic(), 2
    async with cluster(stack, folder, handlers=_HANDLERS, **_QUICK) as lab:
        for number in (1, 2):
            lab.hire(f"worker-{number}")
        manifest = scripted_manifest(mode="live", deterministic=False, rollouts=rollouts)
        run = await lab.create_run("deadly", manifest)
        await lab.ask(run, _mixed(innocent, deadly))
        await lab.until_accepted(run, innocent + deadly)
        await lab.close_run(run)
        await lab.until_ended(run, limit_s=600)
        questions = await lab.desk.rows(_QUESTIONS, run.run_no)
        rows = await lab.desk.rows(_LETTERS, run.run_no)
        outcome = await outcome_of(lab, run, lag=0, seconds=time.monotonic() - began)
        policy = lab.config.isolation
    killers = {row["id"] for row in questions if row["pos"] >= innocent}
    letters = [_letter(row, killers) for row in rows]
    figures = {
        "outcome": outcome,
        "letters": letters,
        "deaths_before_isolation": policy.deaths_before_isolation,
        "max_isolated_deaths": policy.max_isolated_deaths,
        "deadly": [_told(row) for row in questions if row["id"] in killers],
        "innocent_unanswered": [
            _told(row)
            for row in questions
            if row["id"] not in killers and row["status"] != "answered"
        ],
    }
    claims = _judge(outcome, letters, questions, killers, policy)
    return Evidence(figures=figures, claims=tuple(claims))


def _mixed(innocent: int, deadly: int) -> list[Asked]:
    killers = cities(innocent + deadly, _DEADLY)[innocent:]
    return [*killers, *cities(innocent, " [[sleep 0.5]]")]


def _letter(row: Any, killers: set[Any]) -> Letter:  # noqa: ANN401 - a database row
    deadly = row["question"] in killers
    return Letter(deadly=deadly, attempts=row["attempts"], message=row["message"])


def _told(row: Any) -> dict[str, Any]:  # noqa: ANN401 - a database row
    return {name: row[name] for name in ("pos", "status", "reason", "g", "ended", "outcomes")}


def _judge(
    outcome: Outcome,
    letters: list[Letter],
    questions: list[Any],
    killers: set[Any],
    policy: IsolationPolicy,
) -> list[Claim]:
    deadly = [row for row in questions if row["id"] in killers]
    innocent = [row for row in questions if row["id"] not in killers]
    rollouts = sum(row["g"] for row in deadly)
    # A command that was at work when another one ended its worker has an attempt more.
    least = policy.deaths_before_isolation + policy.max_isolated_deaths
    alone = f"it ended its process {policy.max_isolated_deaths} times when it ran alone"
    return [
        Claim(f"workers died of it ({outcome.deaths} deaths)", outcome.deaths > 0),
        Claim(
            f"each of the {rollouts} deadly rollouts was dead-lettered, once",
            sum(letter.deadly for letter in letters) == rollouts > 0,
        ),
        Claim(
            f"each after the {policy.max_isolated_deaths} deaths alone that are configured",
            all(
                letter.attempts >= least and alone in letter.message
                for letter in letters
                if letter.deadly
            ),
        ),
        Claim(
            "their groups ended: each deadly question failed, all its rollouts counted",
            all(row["status"] == "failed" and row["ended"] == row["g"] for row in deadly),
        ),
        Claim("no innocent event was condemned", all(letter.deadly for letter in letters)),
        Claim(
            f"all rollouts of the {len(innocent)} innocent questions ended by their own work",
            all(outcome in _GRADES for row in innocent for outcome in row["outcomes"]),
        ),
        Claim("every question ended exactly once, auditor clean", outcome.whole),
    ]
