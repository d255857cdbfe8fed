"""What evidence of learning is judged by: a world that has one answer, deaths that are counted,
claims that fail.
"""

import json
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID
from xml.etree import ElementTree as ET

import msgspec
import pytest

from consumers.tools.search import search
from consumers.train import points
from consumers.train.points import POINTS, VARIABLE
from ops.anchors import held_back
from ops.audit.weights import Rebuilt
from ops.benchmark import read_benchmark
from ops.chaos.doom import Doom, UpdateStruck
from ops.evidence import pieces
from ops.evidence.curves import Curve, mean_of, picture
from ops.evidence.forged import FORGERIES
from ops.evidence.learn2 import Point, Trained, gains, judge
from ops.evidence.learn6 import Arm, Difference, Served, compare, served_of
from ops.evidence.learn6 import judge as judge_guard
from ops.evidence.lookup import Asked, World, reply
from ops.evidence.planning import Trial
from ops.evidence.shaken import Death, Shaken, in_part, judge_shaken
from producers.hotpot import Row
from schemas.external import Paragraph
from tests.support import updates

_WORLD = World.drawn(1, training=20, anchors=4, holdout=8)
_PASSAGES = [Paragraph(title=one["title"], text=one["text"]) for one in _WORLD.passages]


def _answered(question: str, plan: str) -> str:
    """What the clerk answers after the search that it makes for a plan."""
    system = {"content": "Task: execute.\nFollow the plan."}
    told = f'<data name="question">\n{question}\n</data>\n\n<data name="plan">\n{plan}\n</data>'
    first = json.loads(reply([system, {"content": told}], {}))
    assert "search" == first["action"]
    found = search(first["query"], _PASSAGES)
    result = f'<data name="result">\n{found.text}\n</data>'
    last = json.loads(reply([system, {"content": told}, {"content": result}], {}))
    assert "answer" == last["action"]
    return str(last["answer"])


def _grade(answer: str, gold: str) -> str:
    blocks = {"gold answer": gold, "prediction": answer}
    told = "\n\n".join(f'<data name="{name}">\n{text}\n</data>' for name, text in blocks.items())
    said = reply([{"content": "Task: judge.\n"}, {"content": told}], {})
    return str(json.loads(said)["grade"])


@pytest.mark.parametrize("asked", _WORLD.holdout, ids=lambda asked: asked.id)
def test_a_plan_that_names_place_and_subject_is_answered_rightly(asked: Asked) -> None:
    """Whichever words stand around them."""
    place, subject = asked.id.split("-")
    plan = f"1. Search for the {subject} of {place}.\n2. Read it."
    answer = _answered(asked.question, plan)
    assert "correct" == _grade(answer, asked.answer)


def test_a_plan_that_names_neither_is_answered_wrongly() -> None:
    """The clerk does not look at the question."""
    wrong = [
        _grade(_answered(asked.question, "1. Find the colour of the animal."), asked.answer)
        for asked in (*_WORLD.training, *_WORLD.holdout)
    ]
    assert wrong.count("correct") <= len(wrong) / 4


def test_no_place_is_both_trained_on_and_held_back(tmp_path: Path) -> None:
    """What is measured was never seen; another seed asks otherwise, the same one the same."""
    parts = (_WORLD.training, _WORLD.anchors, _WORLD.holdout)
    places = [{one.id.split("-")[0] for one in part} for part in parts]
    assert [20, 4, 8] == [len(one) for one in places]
    assert 32 == len(set.union(*places))
    assert _WORLD == World.drawn(1, training=20, anchors=4, holdout=8)
    assert _WORLD != World.drawn(2, training=20, anchors=4, holdout=8)
    files = _WORLD.write(tmp_path)
    rows = read_benchmark(files["training"]).rows
    assert [(one.question, one.answer) for one in _WORLD.training] == [
        (row.question, row.label) for row in rows if isinstance(row, Row)
    ]
    for name, part in (("anchors", _WORLD.anchors), ("holdout", _WORLD.holdout)):
        assert tuple(one.answer for one in part) == held_back(files[name], 24).labels


def test_flipped_labels_turn_grades_around() -> None:
    """Of the rows that were named, and of no others."""
    flipped = _WORLD.flipped({1})
    first, second = flipped.training[:2]
    right = _WORLD.training[1].answer
    assert ("correct", "incorrect") == (
        _grade(first.answer, first.answer),
        _grade("no", first.answer),
    )
    assert ("incorrect", "correct") == (_grade(right, second.answer), _grade("no", second.answer))
    assert _WORLD.training[2:] == flipped.training[2:]
    assert _WORLD.holdout == flipped.holdout


def _trained(arm: str, seed: int, *rewards: float | None) -> Trained:
    trial = Trial(arm=arm, seed=seed, lr=1.0, updates=len(rewards))
    made = tuple(
        Point(
            update=n, version=f"planner@v{n}", decision="promoted", batch=0.1, holdout=reward,
            parts={}, rows=1, train_s=1.0, guard_s=1.0,
        )
        for n, reward in enumerate(rewards, 1)
    )  # fmt: skip
    return Trained(trial=trial, base=0.1, points=made, clean=True, commit="c")


def _three(*ends: float) -> list[Trained]:
    skipped = [_trained("optimizer skipped", seed, 0.2, 0.2, 0.2, 0.2) for seed in (1, 2, 3)]
    return skipped + [
        _trained("trained", seed, 0.2, end, end, end) for seed, end in enumerate(ends, 1)
    ]


def test_learning_is_claimed_of_three_seeds_that_all_gain() -> None:
    """A mean that one lucky seed carries is not enough, nor are two seeds."""
    assert [True, True] == [claim.holds for claim in judge(_three(0.4, 0.5, 0.6))]
    assert [True, False] == [claim.holds for claim in judge(_three(0.9, 0.9, 0.1))]
    assert [False, True] == [claim.holds for claim in judge(_three(0.3, 0.3, 0.3))]
    assert not judge(_three(0.9, 0.9))[0].holds
    assert [False, False] == [claim.holds for claim in judge([])]


def test_a_version_that_was_not_measured_counts_for_nothing() -> None:
    """The last measured ones do."""
    found = [
        _trained("trained", 1, 0.5, 0.6, None, 0.7),
        _trained("optimizer skipped", 1, 0.2, 0.2, 0.2, None),
    ]
    assert {"1": 0.4} == gains(found)


def test_a_picture_has_a_line_a_run_and_one_a_mean() -> None:
    """It can be read as XML, whatever the names are."""
    curves = [Curve("a & b", ((1, 0.2), (2, 0.4))), Curve("a & b", ((1, 0.4),))]
    assert [(1, pytest.approx(0.3)), (2, 0.4)] == list(mean_of(curves))
    drawn = ET.fromstring(picture("<title>", curves))
    assert 3 == len(drawn.findall("{http://www.w3.org/2000/svg}polyline"))


def test_a_process_dies_once_at_each_point_that_is_armed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At each named point once, however often it comes by; armed again, once more."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda _, number: killed.append(number))
    doom = Doom(tmp_path / "doom")
    monkeypatch.setenv(VARIABLE, doom.variables[VARIABLE])
    for _ in range(2):
        points.point("after_load")
        points.point("before_result")
    assert [signal.SIGKILL] * 2 == killed
    assert ["after_load", "before_result"] == list(doom.met)
    doom.arm()
    assert [] == list(doom.met)
    points.point("after_load")
    assert 3 == len(killed)


def test_deaths_belong_to_the_update_in_which_they_were_met() -> None:
    """One point left out, or a version that was there already, is not what was meant."""
    assert UpdateStruck(number=2, died=POINTS, versions_then=1).whole
    assert not UpdateStruck(number=2, died=POINTS[1:], versions_then=1).whole
    assert not UpdateStruck(number=2, died=POINTS, versions_then=2).whole


def test_forgeries_change_as_little_as_they_say() -> None:
    """Those that are called one byte are one."""
    assert [True, False, True] == [forgery.bytes_changed == 1 for forgery in FORGERIES.values()]
    assert [True, False, True] == [name.startswith("one byte") for name in FORGERIES]


def test_a_group_is_whole_or_not_there() -> None:
    """A question of which one judged rollout has no row was used in part."""
    rows = updates.rows(1, groups=2)
    first, second = UUID(int=0), UUID(int=1)
    assert 0 == in_part(rows, {first: 4, second: 4})
    assert 1 == in_part(rows, {first: 4, second: 5})
    assert 2 == in_part(rows[:-1], {first: 5, second: 4})
    assert 1 == in_part(rows, {first: 4})
    assert 0 == in_part(rows[:4], {first: 4, second: 4})


def test_a_kill_that_hit_nothing_is_none() -> None:
    """Every part must have died, every version be equal, and more than one there."""
    death = Death(part="train", learner="training", pid=7)
    equal = Rebuilt(version="planner@v1", parent="base", verdict="equal")
    found = Shaken(
        deaths=(death,), versions=(equal, equal), groups=4, questions=4, in_part=0, audit={},
        clean=True, commit="c",
    )  # fmt: skip
    assert [True] * 4 == [claim.holds for claim in judge_shaken(found)]
    for spoilt, place in (
        ({"deaths": (msgspec.structs.replace(death, pid=0),)}, 0),
        ({"questions": 3}, 1),
        ({"in_part": 1}, 1),
        ({"clean": False}, 2),
        ({"versions": (equal,)}, 3),
        ({"versions": (equal, msgspec.structs.replace(equal, verdict="no job"))}, 3),
    ):
        claims = judge_shaken(msgspec.structs.replace(found, **spoilt))
        assert [place] == [n for n, claim in enumerate(claims) if not claim.holds]


async def test_a_trial_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another trial is made, whatever differs."""
    monkeypatch.setattr(pieces, "FOLDER", tmp_path)
    made: list[int] = []

    async def run(seed: int) -> Trained:
        made.append(seed)
        return _trained("trained", seed, 0.5)

    trials = [_trained("trained", seed, 0.5).trial for seed in (1, 1, 2)]
    found = [await pieces.piece("x", trial, Trained, partial(run, trial.seed)) for trial in trials]
    assert [1, 2] == made
    assert trials == [one.trial for one in found]


def _lesson(number: int, serves: str, **holdout: tuple[float | None, ...]) -> dict[str, Any]:
    return {
        "number": number, "serves": serves, "training": "promoted", "holdout": holdout,
        "reasons": (),
    }  # fmt: skip


def test_what_serves_is_compared_with_the_best_that_served() -> None:
    """Not with what was only tried, nor with what came later; question by question."""
    lessons = [
        _lesson(0, "v1", base=(0.0, 0.2, 0.1, 0.1), v1=(0.5, 0.5, 0.5, 0.5)),
        _lesson(1, "v1", v2=(1.0, 1.0, 1.0, 1.0)),
        _lesson(2, "v3", v3=(0.4, 0.3, 0.4, 0.2)),
    ]
    first, second, third = served_of(lessons, (2,))
    same = Difference(mean=0.0, low=0.0, high=0.0, questions=4)
    assert [("v1", 0.5, same, False)] * 2 == [
        (one.version, one.reward, one.difference, one.flipped) for one in (first, second)
    ]
    assert ("v3", ("v1", "v1"), True) == (third.version, third.best, third.flipped)
    fell = third.difference
    assert fell is not None
    assert pytest.approx(-0.175) == fell.mean
    assert -0.3 <= fell.low < fell.mean < fell.high < -0.09


def test_the_best_is_not_chosen_by_the_numbers_it_is_compared_by() -> None:
    """Each half of the questions chooses whom the other half is compared with."""
    even, odd = (1.0, 0.0, 1.0, 0.0), (0.0, 1.0, 0.0, 1.0)
    *_, last = served_of([_lesson(0, "even", base=odd, even=even)], ())
    assert ("even", "base") == last.best
    assert last.difference == compare(even, (odd[0], even[1], odd[2], even[3]))


def test_what_was_not_judged_is_no_evidence() -> None:
    """Neither for the better nor for the worse."""
    assert compare((None, 1.0), (0.0, 0.5)) is None
    assert compare((), ()) is None
    (one,) = served_of([_lesson(0, "v1", base=(0.0, 0.0), v2=(1.0, 1.0))], ())
    assert (None, None) == (one.reward, one.difference)
    unknown = msgspec.structs.replace(_arm("guarded", (0.5, 0.0, True)), served=(one,))
    assert not judge_guard(unknown, unknown)[1].holds


def _arm(arm: str, *served: tuple[float, float, bool], gain: float = 0.2) -> Arm:
    """An arm by rewards, differences and whether labels were wrong."""

    def certain(mean: float) -> Difference:
        return Difference(mean=mean, low=mean, high=mean, questions=8)

    return Arm(
        trial=Trial(arm=arm, seed=1, lr=1.0, updates=len(served)),
        base=0.2,
        gain=certain(gain),
        served=tuple(
            Served(
                batch=n, flipped=flipped, decision="promoted", version=f"v{n}", reward=reward,
                best=("v0", "v0"), difference=certain(difference),
            )
            for n, (reward, difference, flipped) in enumerate(served)
        ),
        reasons=(),
        clean=True,
        commit="c",
    )  # fmt: skip


_FLIPS = [(0.5, 0.0, True)] * 3


@pytest.mark.parametrize(
    "guarded,unguarded,gain,broken",
    [
        (_FLIPS, [*_FLIPS, (0.1, -0.4, False)], 0.2, []),
        ([*_FLIPS, (0.4, -0.03, False)], [*_FLIPS, (0.1, -0.4, True)], 0.2, [1]),
        (_FLIPS, _FLIPS, 0.2, [2]),
        (_FLIPS, [*_FLIPS, (0.1, -0.4, False)], 0.0, [3]),
        (_FLIPS[1:], [*_FLIPS, (0.1, -0.4, False)], 0.2, [0]),
    ],
)
def test_a_guard_is_claimed_to_help_where_there_was_harm(
    guarded: list[tuple[float, float, bool]],
    unguarded: list[tuple[float, float, bool]],
    gain: float,
    broken: list[int],
) -> None:
    """Nothing is shown by a run that lost nothing without a guard, or got no better with one."""
    claims = judge_guard(_arm("guarded", *guarded, gain=gain), _arm("unguarded", *unguarded))
    assert broken == [n for n, claim in enumerate(claims) if not claim.holds]


def test_both_arms_are_trained_on_the_same() -> None:
    """Whether some questions are anchors or not."""
    with_guard = Trial(arm="guarded", seed=6, lr=1.0, updates=4, anchors=9, holdout=5, flipped=(1,))
    without = msgspec.structs.replace(with_guard, arm="unguarded", anchors=0)
    assert with_guard.world().training == without.world().training
    assert with_guard.world().holdout == without.world().holdout
