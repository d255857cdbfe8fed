"""The figures of a report, from rows as the database counts them."""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.cli.report import print_figures
from ops.report import figures_of
from ops.report.figures import Judged
from schemas.envelope import encode_payload
from schemas.events import BatchOpened, LearnerMerged, LearnerSealed, LearnerTrained
from storage.postgres.summary import Counts

_NO_TIMES = dict.fromkeys(("answer_p50", "answer_p95", "end_p50", "end_p95", "span"))


def _counts(**rows: Any) -> Counts:
    empty: dict[str, Any] = {
        name: []
        for name in ("ends", "grades", "events", "tools", "tokens", "times", "failures", "memory")
    }
    return Counts(
        run="r",
        run_id=UUID(int=1),
        mode="live",
        **{
            **empty,
            "latency": {"answered": 0, **_NO_TIMES},
            "uses": {"questions": 0, "credits": 0, "won": 0},
            "answers": [],
            **rows,
        },
    )


def _grade(judge: str, grade: str, n: int, **more: bool) -> dict[str, Any]:
    flags = {"supervised": True, "official": True, **more}
    return {"judge": judge, "grade": grade, "n": n, **flags}


def test_a_run_without_questions_has_no_ratio() -> None:
    """None is not nought: nothing was measured."""
    figures = figures_of(_counts())
    assert (0, None, None) == (
        figures.questions.accepted,
        figures.steps_per_question,
        figures.scores.f1,
    )
    assert ((), None) == (figures.judges, figures.questions_per_hour)


def test_accuracy_is_of_official_answers_by_judge() -> None:
    """What could not be judged is in no denominator, and siblings are counted apart."""
    figures = figures_of(
        _counts(
            grades=[
                _grade("m", "correct", 3),
                _grade("m", "incorrect", 4),
                _grade("m", "not_attempted", 1),
                _grade("m", "unjudged", 2),
                _grade("m", "correct", 5, official=False),
                _grade("m", "correct", 1, supervised=False),
                _grade("none", "unjudged", 7, supervised=False),
            ]
        )
    )
    supervised, unsupervised, none = figures.judges
    assert (
        Judged(
            judge="m",
            kind="supervised",
            grades={"incorrect": 4, "correct": 3, "unjudged": 2, "not_attempted": 1},
            graded=8,
            accuracy=3 / 8,
            rollouts=15,
            rollouts_correct=8,
        )
        == supervised
    )
    assert ("unsupervised", 1.0) == (unsupervised.kind, unsupervised.accuracy)
    assert ("none", None) == (none.kind, none.accuracy)


def test_no_answer_counts_as_nought() -> None:
    """Leaving questions out would reward giving up."""
    scores = figures_of(_counts(answers=[("The Rhine.", "rhine"), (None, "Elbe")])).scores
    assert (2, 0.5, 0.5) == (scores.labelled, scores.exact_match, scores.f1)


def test_failures_are_counted_by_reason() -> None:
    """Open questions are neither answered nor failed."""
    rows = [
        {"status": "answered", "closed": True, "reason": None, "grade": "correct", "n": 4},
        {"status": "answered", "closed": False, "reason": None, "grade": None, "n": 1},
        {"status": "failed", "closed": True, "reason": "timed_out", "grade": None, "n": 2},
        {"status": "failed", "closed": True, "reason": "cancelled", "grade": None, "n": 3},
        {"status": "open", "closed": False, "reason": None, "grade": None, "n": 5},
    ]
    found = figures_of(_counts(ends=rows)).questions
    assert (15, 9, 6, 5, 5) == (
        found.accepted,
        found.ended,
        found.open,
        found.answered,
        found.failed,
    )
    assert {"cancelled": 3, "timed_out": 2} == found.reasons


@given(
    answers=st.lists(
        st.tuples(st.none() | st.text(max_size=20), st.text(min_size=1, max_size=20)), min_size=1
    )
)
def test_scores_are_shares_and_equality_is_no_rarer_than_overlap(
    answers: list[tuple[str | None, str]],
) -> None:
    """Both in [0, 1]; who matches exactly overlaps in full."""
    scores = figures_of(_counts(answers=answers)).scores
    assert scores.exact_match is not None
    assert scores.f1 is not None
    assert 0 <= scores.exact_match <= scores.f1 + 1e-9 <= 1 + 1e-6


def test_a_report_is_json() -> None:
    """Numbers as keys too."""
    memory = [{"generation": 1, "written": 3, "current": 2, "successes": 1}]
    times = [{"stage": "mia.plan", "n": 2, "total": 3.0, "p50": 1.5, "p95": 2.0}]
    found = msgspec.json.decode(
        msgspec.json.encode(figures_of(_counts(memory=memory, times=times)))
    )
    assert {"1": 3} == found["memory"]["by_generation"]
    assert ("plan", pytest.approx(1.5)) == (
        found["times"][0]["stage"],
        found["times"][0]["mean_s"],
    )


def test_a_report_is_readable(capsys: pytest.CaptureFixture[str]) -> None:
    """Names stand as they are, whatever they look like; what was not measured is a dash."""
    counts = _counts(grades=[_grade("judge [7b]", "correct", 1)], answers=[("a", "a")])
    print_figures(figures_of(counts))
    said = capsys.readouterr().out
    assert "judge [7b]" in said
    assert "exact match 100.0%" in said
    assert "answer after - s" in said


def test_a_run_that_trains_tells_of_each_batch(capsys: pytest.CaptureFixture[str]) -> None:
    """Who answered it, what it was worth part by part, what was made of it and decided."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    trained = LearnerTrained(
        number=0, generation=1, policy="planner@v1", parent="base", adapter_sha256="",
        optimizer_sha256="", data_sha256="", groups=3, rows=24,
        metrics={"mean.reward": 0.425, "mean.final": 0.5, "staleness.max": 1.0},
    )  # fmt: skip
    learned = [
        BatchOpened(number=0, generation=0),
        LearnerMerged(number=0, generation=1),
        trained,
        LearnerSealed(number=0, generation=1, training="held_back", candidate="planner@v1"),
    ]
    figures = figures_of(_counts(learning=[(at, encode_payload(event)) for event in learned]))
    (lesson,) = figures.lessons
    assert ("base", 3, 24, 0.425, "planner@v1", "held_back") == (
        lesson.policy, lesson.groups, lesson.rows, lesson.reward, lesson.candidate,
        lesson.training,
    )  # fmt: skip
    print_figures(figures)
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("0.425", "0.500", "planner@v1", "held back"))
