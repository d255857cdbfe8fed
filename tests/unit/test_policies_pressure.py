"""Backpressure and the limit on dead letters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.policies.backpressure import Backpressure
from mia_events.policies.dead_letter import DeadLetterLimit, Tally

_PRESSURE = Backpressure(high=10, low=4)


@given(st.lists(st.integers(0, 20)))
def test_fetching_stops_at_high_and_goes_on_at_low(waiting: list[int]) -> None:
    """At or above high it stands, at or below low it fetches, between it stays as it was."""
    paused = False
    for count in waiting:
        before, paused = paused, _PRESSURE.paused(waiting=count, paused=paused)
        if count >= 10:
            assert paused
        elif count <= 4:
            assert not paused
        else:
            assert before is paused


@pytest.mark.parametrize("high, low", [(3, 3), (3, 4), (3, -1), (0, 0)])
def test_thresholds_without_room_between_them_are_refused(high: int, low: int) -> None:
    """Equal thresholds would switch with every record."""
    with pytest.raises(ValueError, match="below high"):
        Backpressure(high=high, low=low)


@given(st.lists(st.booleans()))
def test_the_tally_counts(records: list[bool]) -> None:
    """All records, the dead ones, and the run of dead ones at the end."""
    tally = Tally()
    for dead in records:
        tally = tally.after(dead=dead)
    run = len(records)
    for place, dead in enumerate(reversed(records)):
        if not dead:
            run = place
            break
    assert Tally(len(records), sum(records), run) == tally


@given(st.integers(0, 300), st.integers(0, 300))
def test_good_records_are_never_stopped_by_few_bad_ones(good: int, bad: int) -> None:
    """Below the least number of records only an unbroken run counts."""
    limit = DeadLetterLimit(max_run=1_000, max_ratio=0.5, least=200)
    stopped = limit.exceeded(Tally(good + bad, bad, 0)) is not None
    assert (good + bad >= 200 and bad > good) is stopped


def test_a_run_of_dead_letters_stops_the_consumer() -> None:
    """A bad deployment shows at once."""
    limit = DeadLetterLimit(max_run=3)
    assert limit.exceeded(Tally(2, 2, 2)) is None
    assert "3 dead letters in a row" in (limit.exceeded(Tally(3, 3, 3)) or "")
