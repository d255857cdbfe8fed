"""Anchors: a manifest pins questions, and their labels go where only judge and guard read."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from consumers.guard import anchor_id
from mia_events.steps import RunView
from ops.anchors import held_back
from ops.benchmark import read_benchmark, to_be_asked
from ops.cli.run import GuardOptions, TrainOptions
from ops.errors import Refused
from ops.manifest import manifest_of
from ops.settings import load_settings
from producers.hotpot import BadRow, Row
from tests.support.drive import RUN, manifest

ROWS: list[dict[str, Any]] = [
    {
        "_id": "a",
        "question": "Who wrote Waverley?",
        "answer": "Scott",
        "context": [["W", ["Scott wrote it."]]],
    },
    {"_id": "b", "question": "Broken"},
    {"_id": "c", "question": "Who wrote Emma?", "answer": "Austen", "context": []},
    {"_id": "d", "question": "Who wrote Kim?", "answer": "Kipling", "context": []},
]


class Labels:
    """Takes labels in."""

    def __init__(self) -> None:
        self.sealed: dict[UUID, str] = {}

    async def seal(self, run_no: int, question: UUID, value: str, *, source: str) -> None:
        """Keep it."""
        assert (1, "anchor") == (run_no, source)
        self.sealed[question] = value


class Artifacts:
    """Takes artifacts in."""

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}

    async def put(self, data: bytes) -> str:
        """Keep it."""
        self.kept[sha256(data).hexdigest()] = data
        return sha256(data).hexdigest()

    async def get(self, sha256_hex: str) -> bytes:
        """Give it back."""
        return self.kept[sha256_hex]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A benchmark of which one row is broken."""
    path = tmp_path / "held.json"
    path.write_text(json.dumps(ROWS))
    return path


def pinned(**chosen: Any) -> Any:
    """A manifest with these choices."""
    return manifest_of(load_settings(environ={}), **chosen)


def test_anchors_are_the_first_rows_with_an_answer(file: Path) -> None:
    """No label and no page stands in the manifest."""
    held = held_back(file, 2)
    assert ["a", "c"] == [anchor.row for anchor in held.questions]
    found = pinned(**GuardOptions(file).chosen(), anchors=msgspec.to_builtins(held.questions))
    assert held.questions == found.anchors
    assert b"Scott" not in msgspec.json.encode(found)
    assert "anchors" == found.guard


def test_a_holdout_is_read_like_anchors(file: Path, tmp_path: Path) -> None:
    """Both are in the manifest, whichever was named; without anchors there is no guard."""
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"_id": "x", "question": "Who?", "answer": "A", "context": []}]))
    options = GuardOptions(anchors=file, anchor_limit=1, holdout=other, holdout_rollouts=3)
    held = {name: one.questions for name, one in options.held_back().items()}
    assert {"anchors": ["a"], "holdout": ["x"]} == {
        n: [q.row for q in one] for n, one in held.items()
    }
    assert 3 == options.chosen()["holdout_rollouts"]
    alone = GuardOptions(holdout=other)
    assert (["holdout"], "off") == (list(alone.held_back()), alone.chosen()["guard"])


async def test_labels_and_pages_are_kept_under_the_anchors_names(file: Path) -> None:
    """The guard finds both by what the manifest says."""
    held, labels, artifacts = held_back(file, 8), Labels(), Artifacts()
    run = RunView(run_no=1, id=RUN, name="r", scope="s", manifest=manifest())
    await held.keep_documents(artifacts)
    await held.seal(run, labels)
    assert ["Scott", "Austen", "Kipling"] == [
        labels.sealed[anchor_id(run, anchor)] for anchor in held.questions
    ]
    name = held.questions[0].documents
    assert name is not None
    assert b"Scott wrote it." in await artifacts.get(name)
    assert held.questions[1].documents is None


def test_a_file_without_answers_is_refused(tmp_path: Path) -> None:
    """Anchors are graded."""
    path = tmp_path / "none.json"
    path.write_text(json.dumps(ROWS[1:2]))
    with pytest.raises(Refused, match="no row with an answer"):
        held_back(path, 8)


@pytest.mark.parametrize(
    "chosen,reason",
    [
        ({"guard": "anchors"}, "compares versions on anchors"),
        ({"guard": "anchors", "guard_rules": {"margin": 2.0}}, "margin"),
        (
            {"judge": "none", "anchors": [{"source": "s", "row": "1", "text": "Who?"}]},
            "the run has no judge",
        ),
        (
            {"judge": "none", "holdout": [{"source": "s", "row": "1", "text": "Who?"}]},
            "the run has no judge",
        ),
        (
            {
                "guard": "anchors",
                "anchors": [{"source": "s", "row": "1", "text": "Who?"}],
                "holdout": [{"source": "t", "row": "9", "text": "Who?"}],
            },
            "1 questions are both anchors and holdout, such as 'Who\\?'",
        ),
        (
            {"holdout": [{"source": "t", "row": "9", "text": "Who?"}]},
            "does not train has nothing to measure",
        ),
    ],
)
def test_a_run_that_cannot_learn_so_is_refused(chosen: dict[str, Any], reason: str) -> None:
    """At the run's creation, not after the first update."""
    with pytest.raises(Refused, match=reason):
        pinned(**chosen)


def test_options_become_rules() -> None:
    """What is not chosen has the rules' own default."""
    chosen = GuardOptions(anchors=Path("held.json"), guard_margin=0.1).chosen()
    assert ("anchors", {"margin": 0.1}) == (chosen["guard"], chosen["guard_rules"])
    chosen |= {"guard": "off"}
    assert (0.1, 2) == (pinned(**chosen).guard_rules.margin, pinned(**chosen).guard_rules.rollouts)


def test_a_run_that_trains_has_batches_for_its_planners_size() -> None:
    """And rewards as the settings weigh them; what was chosen stays."""
    left_out: dict[str, Any] = dict.fromkeys(("mode", "rollouts", "batch_size", "lag"))
    small = TrainOptions(train=True).chosen(load_settings(environ={}), left_out)
    assert (4, 4, "batch", 1, None) == tuple(
        small[name] for name in ("batch_size", "rollouts", "mode", "lag", "reward")
    )
    environ = {
        "MIA_MODELS__PLANNER__BASE_URL": "http://planner/v1", "MIA_TRAINING__REWARD__TOOL": "0.1"
    }  # fmt: skip
    large = TrainOptions(train=True).chosen(load_settings(environ=environ), left_out)
    assert (32, 0.1) == (large["batch_size"], large["reward"]["tool"])
    chosen = TrainOptions(train=True).chosen(load_settings(environ=environ), {**left_out, "lag": 0})
    assert "lag" not in chosen


def test_rules_without_anything_to_go_by_are_refused() -> None:
    """A run would be taken for guarded, and is not."""
    with pytest.raises(Refused, match=r"--guard-margin needs .*--anchors"):
        GuardOptions(guard_margin=0.1).chosen()


def test_rows_that_a_run_holds_back_are_not_asked(tmp_path: Path) -> None:
    """By their words; what is left counts from 0, and bad rows stay to be told of."""
    file = tmp_path / "held.json"
    file.write_text(json.dumps([*ROWS, {**ROWS[0], "_id": "again"}]))
    held = held_back(file, 1)
    asked = to_be_asked(read_benchmark(file).rows, held.questions)
    assert ["c", "d"] == [row.name for row in asked if isinstance(row, Row)]
    assert [0, 1] == [row.position for row in asked if isinstance(row, Row)]
    assert [2] == [row.number for row in asked if isinstance(row, BadRow)]
