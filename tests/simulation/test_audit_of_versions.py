"""The auditor finds nothing wrong with versions that were trained, and whatever is planted."""

from collections.abc import Callable
from functools import cache

import msgspec
import pytest

from ops.audit.batches import check_batches
from ops.audit.book import Book
from ops.audit.effects import check_effects
from ops.audit.findings import Check, Findings
from ops.audit.versions import check_versions
from storage.postgres.audit import History
from tests.simulation.chance import CALM
from tests.simulation.scenario import Scenario
from tests.simulation.simulate import simulate
from tests.support.audit_history import edit
from tests.support.audited import history_of

new = msgspec.structs.replace


@cache
def _history(lag: int = 1, *, rollouts: int = 3) -> History:
    """A run of four batches, undisturbed."""
    scenario = new(Scenario.training(8, lag), questions=8, rollouts=rollouts, faults=CALM)
    return history_of(simulate(scenario).db)


def _found(history: History) -> list[str]:
    """What the checks that concern learning say."""
    findings, book = Findings(), Book(history)
    for check in (check_versions, check_effects, check_batches):
        check(book, findings)
    return [f"{fault.check}: {fault.what}" for fault in findings.kept]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_run_that_trained_is_clean(lag: int) -> None:
    """Events, registry, groups, pins and the ordinals of a trainer's effects agree."""
    history = _history(lag)
    assert len(history.versions) >= 3
    assert [] == _found(history)


def test_a_run_that_had_nothing_to_compare_is_clean() -> None:
    """Groups of one: every batch is skipped, nothing is registered."""
    history = _history(rollouts=1)
    assert () == history.versions
    assert [] == _found(history)


Plant = Callable[[History], History]
PLANTED: list[tuple[str, Plant]] = [
    ("a version lost", lambda h: new(h, versions=h.versions[1:])),
    ("a version from nowhere", lambda h: edit(h, "versions", 0, event_id=h.events[0].id)),
    ("other weights", lambda h: edit(h, "versions", 1, adapter_sha=b"\0" * 32)),
    ("other data", lambda h: edit(h, "versions", 1, data_sha=b"\0" * 32)),
    ("another parent", lambda h: edit(h, "versions", 2, parent="base")),
    ("another state", lambda h: edit(h, "versions", 0, state="held_back")),
    ("another version serves", lambda h: new(h, run=new(h.run, policy="base"))),
    ("a group left out", lambda h: new(h, groups=h.groups[1:])),
    ("a group used before its batch", lambda h: edit(h, "groups", -1, batch=0)),
    ("a batch on another version", lambda h: edit(h, "batches", 2, policy="base")),
]


@pytest.mark.parametrize("plant", [one[1] for one in PLANTED], ids=[one[0] for one in PLANTED])
def test_what_is_planted_is_found(plant: Plant) -> None:
    """Each change is a fault of the versions."""
    assert [line for line in _found(plant(_history())) if line.startswith(Check.VERSION)]
