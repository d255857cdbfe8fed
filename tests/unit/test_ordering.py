"""Events in one order, though clocks disagree."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mia_events.ordering import by_time

_AT = datetime(2030, 1, 1, tzinfo=UTC)
Event = tuple[str, datetime, int]


def _events(ticks: dict[str, list[int]]) -> list[Event]:
    return [
        (stream, _AT + timedelta(seconds=tick), number)
        for stream, of_stream in ticks.items()
        for number, tick in enumerate(of_stream)
    ]


@given(st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(0, 9), max_size=6)))
def test_a_stream_is_never_out_of_its_order(ticks: dict[str, list[int]]) -> None:
    """Whatever its writers' clocks say."""
    found = by_time(_events(ticks), lambda event: event)
    assert sorted(found) == sorted(_events(ticks))
    for stream in ticks:
        numbers = [number for of, _, number in found if of == stream]
        assert sorted(numbers) == numbers


def test_streams_meet_by_time() -> None:
    """An event that was written by a slow clock comes right after the one before it."""
    found = by_time(_events({"a": [5, 3], "b": [4, 6]}), lambda event: event)
    assert [("b", 0), ("a", 0), ("a", 1), ("b", 1)] == [(of, number) for of, _, number in found]
