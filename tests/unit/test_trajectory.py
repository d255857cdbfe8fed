"""What a rollout's history says about it."""

from uuid import UUID

import pytest

from mia_events.lifecycle import NoTransition
from mia_events.trajectory import follow, follow_all, rollout_status
from schemas.events import RolloutReplanned, TurnAnswered, TurnRejected
from tests.support.drive import views
from tests.support.histories import chosen, failed, judged, opened, planned, proposed

MEMORY = UUID(int=3)


def test_a_finished_rollout_tells_everything() -> None:
    """Plan, role, memories, sources in order of finding and once, turns, answer and grade."""
    found = follow(judged(2, "correct", searches=2, memories=(MEMORY,)))
    assert (2, "ended", "sibling", "correct") == (
        found.number,
        found.status,
        found.role,
        found.grade,
    )
    assert ((MEMORY,), ("Page 1", "Shared", "Page 2")) == (found.memories, found.sources)
    assert (3, "Scott", "1. Search Waverley.") == (found.turns, found.answer, found.plan)


def test_turns_are_what_the_executor_said() -> None:
    """Malformed ones count, results and replans do not."""
    history = [
        *chosen(searches=1),
        TurnRejected(turn=2, text="x", observation="y"),
        TurnAnswered(turn=3, text="", answer=None),
        RolloutReplanned(plan="1."),
    ]
    found = follow(history)
    assert (3, 1, None) == (found.turns, found.replans, found.answer)


def test_rollouts_come_by_number() -> None:
    """Whatever the order in which they are read."""
    found = follow_all(reversed(views(planned(0), proposed(1), failed(2)).items))
    assert [(0, "planned"), (1, "proposed"), (2, "ended")] == [(t.number, t.status) for t in found]


def test_an_impossible_history_is_refused() -> None:
    """An answer before the plan names state and event."""
    with pytest.raises(NoTransition, match=r"planning cannot take rollout\.proposed"):
        follow([*opened(), *proposed()[-1:]])


def test_nothing_has_no_status() -> None:
    """A stream without an event does not exist."""
    with pytest.raises(ValueError, match="without an event"):
        rollout_status([])
