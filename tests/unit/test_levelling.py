"""What a server of the planner lacks, and what it has too much of."""

from datetime import UTC, datetime
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from mia_events.learning.versions import is_served_name, version_name
from ops.serving.levelling import Load, Unload, Wanted, level, wanted_of
from storage.ports import PolicyRow

_DIGITS = st.text("0123456789abcdef", min_size=64, max_size=64)
_WANTED = st.builds(
    lambda number, sha: Wanted(f"planner@v{number}-{sha[:12]}", sha), st.integers(1, 9), _DIGITS
)
_OTHERS = st.sampled_from(["smollm2-135m-instruct", "their-adapter", "planner", "planner@v1"])


def _row(run_no: int, number: int, sha: str) -> PolicyRow:
    return PolicyRow(
        run_no=run_no,
        number=number,
        name=version_name(number),
        parent="base",
        batch=0,
        state="promoted",
        adapter_sha256=sha,
        optimizer_sha256=sha,
        data_sha256=sha,
        record=b"{}",
        event_id=UUID(int=0),
        at=datetime.now(UTC),
    )


@given(st.sets(_WANTED), st.sets(_WANTED), st.sets(_OTHERS))
def test_a_server_is_level_after_one_pass(
    wanted: set[Wanted], before: set[Wanted], others: set[str]
) -> None:
    """It has what is wanted and no other version; what is not ours is as it was."""
    there = {one.name for one in before} | others
    for action in level(wanted, there):
        if isinstance(action, Load):
            there.add(action.wanted.name)
        else:
            there.remove(action.name)
    assert {one.name for one in wanted} == {name for name in there if is_served_name(name)}
    assert others == {name for name in there if not is_served_name(name)}
    assert [] == level(wanted, there)


def test_what_somebody_may_wait_for_comes_first() -> None:
    """A load makes a request possible, an unload only saves room."""
    new, old = Wanted("planner@v2-" + "b" * 12, "b" * 64), "planner@v1-" + "a" * 12
    assert [Load(new), Unload(old)] == level([new], [old, "base"])


def test_equal_weights_of_two_runs_are_served_once() -> None:
    """A version of one name with other weights is another one."""
    rows = [_row(1, 1, "a" * 64), _row(2, 1, "a" * 64), _row(3, 1, "b" * 64)]
    assert ["planner@v1-" + "a" * 12, "planner@v1-" + "b" * 12] == [
        one.name for one in wanted_of(rows)
    ]
