"""What a run has learned, from its events to a table and a picture."""

import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ops.learning.lessons import Lesson, lessons_of
from ops.learning.plot import page, picture
from schemas import events as ev
from schemas.events import Event

_BEGAN = datetime(2030, 1, 1, tzinfo=UTC)


def _at(*events: Event) -> list[tuple[datetime, Event]]:
    """Ten seconds apart."""
    return [(_BEGAN + timedelta(seconds=10 * n), event) for n, event in enumerate(events)]


def _trained(number: int, **metrics: float) -> ev.LearnerTrained:
    return ev.LearnerTrained(
        number=number,
        generation=number + 1,
        policy=f"planner@v{number + 1}",
        parent="base",
        adapter_sha256="a",
        optimizer_sha256="b",
        data_sha256="c",
        groups=2,
        rows=12,
        metrics=metrics,
    )


def _sealed(number: int, **more: Any) -> ev.LearnerSealed:
    return ev.LearnerSealed(number=number, generation=number + 1, **more)


def test_a_batch_that_taught_nothing_shows_what_it_was() -> None:
    """All right or all wrong: the curve has no hole there, also when a guard looked."""
    metrics = {"mean.reward": 1.0, "mean.final": 1.0, "groups.stale": 0.0}
    told = ev.LearnerUntrained(
        number=1, generation=2, policy="base", training="skipped", problem="equal", metrics=metrics
    )
    (first, second), _ = lessons_of(
        _at(
            _sealed(0, training="skipped", problem="equal", metrics=metrics),
            ev.LearnerMerged(number=1, generation=2),
            told,
        )
    )
    assert (1.0, {"final": 1.0}, "skipped") == (first.reward, first.parts, first.training)
    assert (1.0, "guarding") == (second.reward, second.phase)


def test_a_roll_back_is_no_mere_hold_back() -> None:
    """Whoever reads the table sees that another version serves again."""
    told = ev.LearnerUntrained(
        number=1, generation=2, policy="planner@v1", training="skipped", problem="equal"
    )
    held = _sealed(0, training="held_back", policy="base", candidate="planner@v1")
    lessons, _ = lessons_of(
        _at(_trained(0), held, told, _sealed(1, training="skipped", policy="base"))
    )
    assert ["held back", "skipped, rolled back"] == [one.decision for one in lessons]


def test_a_batch_is_followed_from_its_opening_to_its_decision() -> None:
    """Who answered it, what it taught, what was made and decided, and how long each took."""
    metrics = {"mean.reward": 0.4, "mean.final": 0.5, "staleness.max": 1.0, "loss": 0.1}
    (lesson,), orders = lessons_of(
        _at(
            ev.BatchOpened(number=0, generation=0, policy="base"),
            ev.BatchEnded(number=0),
            ev.LearnerBatchReady(number=0),
            ev.LearnerMerged(number=0, generation=1),
            _trained(0, **metrics),
            _sealed(
                0,
                training="promoted",
                policy="planner@v1",
                candidate="planner@v1",
                scores={"candidate.reward": 0.6, "best.reward": 0.5},
                reasons=("better",),
                holdout={"base": (0.2, None), "planner@v1": (0.3, 0.5)},
            ),
        )
    )
    assert [] == orders
    assert ("base", "planner@v1", "promoted", "planner@v1") == (
        lesson.policy, lesson.candidate, lesson.training, lesson.serves,
    )  # fmt: skip
    assert (0.4, {"final": 0.5}, 1.0) == (lesson.reward, lesson.parts, lesson.stale)
    assert (0.6, 0.5, ("better",)) == (lesson.score, lesson.best, lesson.reasons)
    assert (["base", "planner@v1"], 0.4) == (list(lesson.holdout), lesson.on_holdout)
    assert (10.0, 10.0, 10.0) == (lesson.merge_s, lesson.train_s, lesson.guard_s)


@pytest.mark.parametrize(
    "events, phase",
    [
        ((), "answering"),
        ((ev.BatchEnded(number=0),), "waiting"),
        ((ev.BatchEnded(number=0), ev.LearnerBatchReady(number=0)), "merging"),
        ((ev.LearnerMerged(number=0, generation=1),), "training"),
        ((ev.LearnerMerged(number=0, generation=1), _trained(0)), "guarding"),
        ((ev.LearnerMerged(number=0, generation=1), ev.RunCancelled()), "cancelled"),
    ],
)
def test_what_a_batch_waits_for_is_told(events: tuple[Event, ...], phase: str) -> None:
    """Somebody who watches wants to know what takes so long."""
    (lesson,), _ = lessons_of(_at(ev.BatchOpened(number=0, generation=0), *events))
    assert phase == lesson.phase


def test_a_batch_that_made_no_version_says_why() -> None:
    """Its reason stands where a guard's would."""
    problem = "nothing to compare: 2 groups with equal rewards"
    (lesson,), _ = lessons_of(
        _at(
            ev.LearnerMerged(number=0, generation=1),
            _sealed(0, training="skipped", problem=problem),
        )
    )
    assert (None, "skipped", (problem,), None) == (
        lesson.candidate, lesson.training, lesson.reasons, lesson.guard_s,
    )  # fmt: skip


def test_orders_stand_between_batches() -> None:
    """An operator's word changes what serves without a batch."""
    order = ev.RunPolicySet(policy="base", previous="planner@v1", by="operator", reason="worse")
    _, (ordered,) = lessons_of(_at(_sealed(0, training="promoted"), order))
    assert (1, "base", "planner@v1", "worse") == (
        ordered.after, ordered.policy, ordered.previous, ordered.reason,
    )  # fmt: skip


def _three() -> list[Lesson]:
    return [
        Lesson(number=0, reward=0.2, candidate="planner@v1", training="promoted", score=0.5),
        Lesson(number=1, training="skipped"),
        Lesson(
            number=2,
            reward=0.4,
            candidate="planner@v2",
            training="held_back",
            reasons=("<below> & beyond",),
        ),
    ]


def test_the_picture_has_a_point_for_every_value_and_a_mark_for_every_version() -> None:
    """Nothing is drawn for what is not known; a reason cannot break the page."""
    tree = ET.fromstring(picture("r", _three()))
    space = "{http://www.w3.org/2000/svg}"
    lines = [line.get("points", "").split() for line in tree.iter(f"{space}polyline")]
    assert [2, 1] == [len(points) for points in lines]
    first, second = (float(point.split(",")[1]) for point in lines[0])
    assert first > second  # a higher reward is nearer to the top
    titles = [title.text for title in tree.iter(f"{space}title")]
    assert ["planner@v1: promoted", "planner@v2: held_back: <below> & beyond"] == titles


def test_a_page_needs_nothing_from_elsewhere() -> None:
    """It is opened from a disk, years later."""
    text = page("<r>", _three())
    assert "&lt;r&gt;" in text
    assert "0.200" in text
    assert "src=" not in text
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("lessons", [[], [Lesson(number=7)]])
def test_a_run_without_values_has_an_empty_picture(lessons: list[Lesson]) -> None:
    """A curve of one batch, or of none, is a picture too."""
    ET.fromstring(picture("r", lessons))
