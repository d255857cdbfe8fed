"""From what the database counted to the figures of a report."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import msgspec

from mia_events.scoring import exact_match, token_f1
from ops.learning.lessons import Lesson, lessons_of
from schemas.envelope import decode_payload
from storage.postgres.summary import Counts

__all__ = ["Figures", "Judged", "Memory", "Questions", "Scores", "Spent", "StageTime", "figures_of"]

_GRADED = ("correct", "incorrect", "not_attempted")


class _Part(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the report."""


class Questions(_Part, frozen=True):
    """How many were accepted, are open, were answered, failed; reasons by name."""

    accepted: int
    ended: int
    open: int
    answered: int
    failed: int
    reasons: dict[str, int]


class Judged(_Part, frozen=True):
    """A judge's grades of official answers; `accuracy` is correct ÷ graded, None without any.

    `kind`: supervised (it saw the gold answer), unsupervised, or none (it had nothing to go by).
    `rollouts` counts its grades of all attempts, `rollouts_correct` the good ones.
    """

    judge: str
    kind: str
    grades: dict[str, int]
    graded: int
    accuracy: float | None
    rollouts: int
    rollouts_correct: int


class Scores(_Part, frozen=True):
    """Means over all ended questions with a label; no answer counts as 0."""

    labelled: int
    exact_match: float | None
    f1: float | None


class Spent(_Part, frozen=True):
    """Model calls of a stage and their tokens."""

    stage: str
    calls: int
    prompt_tokens: int
    completion_tokens: int


class StageTime(_Part, frozen=True):
    """Seconds from a stage's commands to the steps that handled them, waiting included."""

    stage: str
    steps: int
    total_s: float
    mean_s: float
    p50_s: float
    p95_s: float


class Memory(_Part, frozen=True):
    """Memory: versions written by generation, newest ones, and how they served this run."""

    versions: int
    current: int
    successes: int
    by_generation: dict[int, int]
    questions_that_used_it: int
    credits: int
    won: int


class Figures(_Part, frozen=True):
    """A run summed up. Latencies are seconds from acceptance: to the answer, and to the end.

    `lessons` are the batches of a run that trains.
    """

    run: str
    run_id: UUID
    mode: str
    questions: Questions
    judges: tuple[Judged, ...]
    scores: Scores
    events: int
    steps: int
    steps_per_question: float | None
    turns: int
    malformed_turns: int
    replans: int
    tool_calls: dict[str, int]
    tokens: tuple[Spent, ...]
    times: tuple[StageTime, ...]
    answer_p50_s: float | None
    answer_p95_s: float | None
    end_p50_s: float | None
    end_p95_s: float | None
    span_s: float | None
    questions_per_hour: float | None
    memory: Memory
    rollout_failures: dict[str, int]
    lessons: tuple[Lesson, ...] = ()


def figures_of(counts: Counts) -> Figures:
    """Return the report of what was counted."""
    types = {row["type"]: row for row in counts.events}
    questions = _questions(counts.ends)
    steps = sum(row["steps"] for row in counts.events)
    span = counts.latency["span"]
    return Figures(
        run=counts.run,
        run_id=counts.run_id,
        mode=counts.mode,
        questions=questions,
        judges=_judges(counts.grades),
        scores=_scores(counts.answers),
        events=sum(row["n"] for row in counts.events),
        steps=steps,
        steps_per_question=_ratio(steps, questions.ended),
        turns=sum(
            _n(types, name) for name in ("turn.tool_called", "turn.rejected", "turn.answered")
        ),
        malformed_turns=_n(types, "turn.rejected"),
        replans=_n(types, "rollout.replanned"),
        tool_calls={row["tool"]: row["n"] for row in counts.tools},
        tokens=tuple(_spent(row) for row in _by_stage(counts.tokens)),
        times=tuple(_time(row) for row in _by_stage(counts.times)),
        answer_p50_s=counts.latency["answer_p50"],
        answer_p95_s=counts.latency["answer_p95"],
        end_p50_s=counts.latency["end_p50"],
        end_p95_s=counts.latency["end_p95"],
        span_s=span,
        questions_per_hour=_ratio(questions.ended * 3600, span or 0),
        memory=_memory(counts),
        rollout_failures={row["reason"]: row["n"] for row in counts.failures},
        lessons=_lessons(counts),
    )


def _lessons(counts: Counts) -> tuple[Lesson, ...]:
    events = ((at, decode_payload(body)) for at, body in counts.learning)
    return tuple(lessons_of(events)[0])


def _questions(rows: Iterable[dict[str, Any]]) -> Questions:
    found = list(rows)
    reasons = Counter[str]()
    for row in found:
        if row["status"] == "failed":
            reasons[row["reason"] or "unknown"] += row["n"]
    accepted = sum(row["n"] for row in found)
    ended = sum(row["n"] for row in found if row["closed"])
    return Questions(
        accepted=accepted,
        ended=ended,
        open=accepted - ended,
        answered=sum(row["n"] for row in found if row["status"] == "answered"),
        failed=reasons.total(),
        reasons=dict(reasons.most_common()),
    )


def _judges(rows: Iterable[dict[str, Any]]) -> tuple[Judged, ...]:
    by_judge: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        kind = "supervised" if row["supervised"] else "unsupervised"
        key = (row["judge"], "none" if row["judge"] == "none" else kind)
        by_judge.setdefault(key, []).append(row)
    return tuple(_judged(*key, found) for key, found in sorted(by_judge.items()))


def _judged(judge: str, kind: str, rows: Sequence[dict[str, Any]]) -> Judged:
    grades, all_grades = Counter[str](), Counter[str]()
    for row in rows:
        all_grades[row["grade"]] += row["n"]
        if row["official"]:
            grades[row["grade"]] += row["n"]
    graded = sum(grades[grade] for grade in _GRADED)
    return Judged(
        judge=judge,
        kind=kind,
        grades=dict(grades.most_common()),
        graded=graded,
        accuracy=_ratio(grades["correct"], graded),
        rollouts=all_grades.total(),
        rollouts_correct=all_grades["correct"],
    )


def _scores(answers: Sequence[tuple[str | None, str]]) -> Scores:
    count = len(answers)
    exact = sum(exact_match(answer, gold) for answer, gold in answers if answer is not None)
    f1 = sum(token_f1(answer, gold) for answer, gold in answers if answer is not None)
    return Scores(labelled=count, exact_match=_ratio(exact, count), f1=_ratio(f1, count))


def _by_stage(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["stage"] or "")


def _spent(row: dict[str, Any]) -> Spent:
    return Spent(
        stage=_stage(row),
        calls=row["calls"],
        prompt_tokens=int(row["prompt"] or 0),
        completion_tokens=int(row["completion"] or 0),
    )


def _time(row: dict[str, Any]) -> StageTime:
    return StageTime(
        stage=_stage(row),
        steps=row["n"],
        total_s=row["total"],
        mean_s=row["total"] / row["n"],
        p50_s=row["p50"],
        p95_s=row["p95"],
    )


def _stage(row: dict[str, Any]) -> str:
    return str(row["stage"] or "other").removeprefix("mia.")


def _memory(counts: Counts) -> Memory:
    rows = counts.memory
    return Memory(
        versions=sum(row["written"] for row in rows),
        current=sum(row["current"] for row in rows),
        successes=sum(row["successes"] for row in rows),
        by_generation={row["generation"]: row["written"] for row in rows},
        questions_that_used_it=counts.uses["questions"],
        credits=counts.uses["credits"],
        won=counts.uses["won"],
    )


def _n(types: dict[str, dict[str, Any]], name: str) -> int:
    return int(types[name]["n"]) if name in types else 0


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
