"""The watermark: what may be committed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.policies.watermark import Watermark


@given(st.lists(st.integers(0, 60), unique=True, min_size=1), st.data())
def test_the_watermark_is_the_first_open_record(offsets: list[int], data: st.DataObject) -> None:
    """Whatever the order of completion, it passes exactly the contiguous prefix of records."""
    offsets = sorted(offsets)
    mark = Watermark(offsets[0])
    for offset in offsets:
        mark.started(offset)
    done: set[int] = set()
    for offset in data.draw(st.permutations(offsets)):
        mark.done(offset)
        done.add(offset)
        waiting = [other for other in offsets if other not in done]
        passed = [other for other in offsets if not waiting or other < waiting[0]]
        assert (passed[-1] + 1 if passed else offsets[0]) == mark.position
        assert len(offsets) - len(passed) == mark.open


@given(st.lists(st.integers(0, 20), unique=True, min_size=1), st.lists(st.integers(-5, 25)))
def test_strays_change_nothing(offsets: list[int], strays: list[int]) -> None:
    """Repeats and offsets already passed do not move the mark; it never goes back."""
    mark = Watermark(0)
    highest = 0
    for offset in sorted(offsets):
        mark.started(offset)
        mark.done(offset)
        for stray in (other for other in strays if other < mark.position):
            mark.done(stray)
        assert mark.position >= highest
        highest = mark.position
    assert max(offsets) + 1 == mark.position
    assert 0 == mark.open


def test_records_come_in_order() -> None:
    """A record at or before the last one read is refused: the topic was made anew."""
    mark = Watermark(5)
    mark.started(7)
    assert mark.follows(9)
    assert not mark.follows(7)
    with pytest.raises(ValueError, match="offset 6"):
        mark.started(6)


def test_a_fresh_mark_accepts_its_own_position() -> None:
    """The next offset to be read may come, an earlier one may not."""
    mark = Watermark(5)
    assert mark.follows(5)
    assert not mark.follows(4)
