"""What the learning loop is judged by: times between events, versions that rollouts kept."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ops.evidence.learn1 import claims
from ops.evidence.ttrl import Ran, Trial
from ops.evidence.updates import Answered, Meanwhile, update_of

_START = datetime(2026, 1, 1, tzinfo=UTC)
_SHA = "ab" * 32


def _at(seconds: float, **body: object) -> tuple[datetime, dict[str, Any]]:
    return _START + timedelta(seconds=seconds), {"number": 3, **body}


def _events() -> dict[str, tuple[datetime, dict[str, Any]]]:
    metrics = {"seconds_update": 20.04, "loss": 0.5}
    trained = {"policy": "planner@v2", "adapter_sha256": _SHA, "metrics": metrics, "rows": 7}
    return {
        "batch.ended": _at(10),
        "learner.batch_ready": _at(11),
        "learner.merged": _at(13),
        "learner.trained": _at(53, **trained),
        "learner.sealed": _at(73, training="promoted", policy="planner@v2", candidate="planner@v2"),
    }


def test_an_update_is_timed_by_its_events() -> None:
    """From the last grade to the seal, part by part; the engine's own seconds apart."""
    served = {"planner@v2-abababababab": _START + timedelta(seconds=55)}
    one = update_of(_START, _events(), served)
    parts = (one.consolidate_s, one.wait_s, one.merge_s, one.train_s, one.load_s, one.guard_s)
    assert (10.0, 1.0, 2.0, 40.0, 2.0, 20.0) == parts
    assert 73.0 == one.total_s
    assert {"update": 20.0} == one.engine_s
    assert {"loss": 0.5} == one.metrics


def test_a_version_serves_when_a_server_has_it() -> None:
    """Without a guard it is sealed first and loaded after."""
    served = {"planner@v2-abababababab": _START + timedelta(seconds=80)}
    assert 80.0 == update_of(_START, _events(), served).total_s


def test_a_batch_without_an_update_has_no_times_of_one() -> None:
    """It was merged and sealed all the same, and says why."""
    sealed = _at(14, training="skipped", policy="base", problem="nothing to compare")
    events = {n: e for n, e in _events().items() if n != "learner.trained"}
    one = update_of(_START, events | {"learner.sealed": sealed}, {})
    assert (None, None, None) == (one.train_s, one.load_s, one.guard_s)
    assert ("nothing to compare",) == one.reasons
    assert "train_s" not in one.told()


@pytest.mark.parametrize(
    "pinned, served, kept",
    [
        ("planner@v2", "planner@v2-abababababab", True),
        ("planner@v2", "planner@v21-abababababab", False),
        ("planner@v2", "smollm2", False),
        ("base", "smollm2", True),
        ("base", "planner@v1-abababababab", False),
    ],
)
def test_a_rollout_keeps_its_version(pinned: str, served: str, *, kept: bool) -> None:
    """Who answered must be what the rollout is pinned to."""
    one = Answered(pinned=pinned, served=served, replies=1, rollouts=1, questions=1)
    assert kept == one.kept


def _ran(**changes: object) -> Ran:
    """A run of three batches that did all that was promised."""
    served = {"planner@v2-abababababab": _START + timedelta(seconds=55)}
    versions = [
        replace(update_of(_START, _events(), served), policy=f"planner@v{n}") for n in "123"
    ]
    ran = Ran(
        trial=Trial(batches=3, batch_size=2),
        commit="",
        made=versions,
        answered=[
            Answered(
                pinned="planner@v1", served="planner@v1-00", replies=8, rollouts=8, questions=2
            )
        ],
        meanwhile=[Meanwhile(batch=0, replies=3, rollouts=1)],
        ends={
            "questions": 6,
            "answered": 6,
            "rollouts": 24,
            "rollouts_not_graded": 0,
            "dead_letters": 0,
        },
        answers={"base": 4, "planner@v1": 2},
        audit={},
        clean=True,
        weights=[{"verdict": "equal"}],
        report={},
        memory={"together": 9.0},
        seconds=1.0,
    )
    return replace(ran, **changes)


def _broken(ran: Ran) -> int:
    return sum(not claim.holds for claim in claims(ran, ran, least=3))


def test_a_run_that_did_all_bears_every_claim_out() -> None:
    """Also after it was kept and read again."""
    kept = msgspec.json.decode(msgspec.json.encode(_ran()), type=Ran)
    assert _ran() == kept
    assert 0 == _broken(kept)


@pytest.mark.parametrize(
    "changes",
    [
        {"made": _ran().made[:2]},
        {"clean": False},
        {"ends": {**_ran().ends, "answered": 5}},
        {"ends": {**_ran().ends, "rollouts_not_graded": 1}},
        {"answers": {"base": 6}},
        {"answered": [replace(_ran().answered[0], served="planner@v2-00")]},
        {"answered": []},
        {"meanwhile": [Meanwhile(batch=0, replies=0, rollouts=0)]},
        {"made": [replace(one, total_s=301.0) for one in _ran().made]},
        {"made": [replace(one, training="held_back") for one in _ran().made]},
        {"weights": [{"verdict": "equal"}, {"verdict": "different"}]},
        {"weights": []},
        {"memory": {"together": 25.0}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_promise_can_be_broken(changes: dict[str, object]) -> None:
    """A claim that nothing could break would prove nothing."""
    assert _broken(_ran(**changes)) > 0
