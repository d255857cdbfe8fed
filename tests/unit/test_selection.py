"""Which groups an update takes, and how far answering may run ahead."""

from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.learning.governor import may_open, pacing_problem, room
from mia_events.learning.selection import lineage_of, select
from schemas.events import LearnerSealed, LearnerTrained

LINEAGE = ("base", "planner@v1", "planner@v3")


class Group(msgspec.Struct, frozen=True):
    """A graded group."""

    position: int
    policy: str = "planner@v3"

    @property
    def question(self) -> UUID:
        """Named after the position."""
        return UUID(int=self.position)


def trained(policy: str, parent: str) -> LearnerTrained:
    """An update."""
    return LearnerTrained(
        number=0, generation=1, policy=policy, parent=parent, adapter_sha256="", data_sha256="",
        optimizer_sha256="", groups=1, rows=1,
    )  # fmt: skip


def test_a_batch_takes_the_first_groups_by_position() -> None:
    """However they arrive."""
    found = select([Group(3), Group(1), Group(2)], lineage=LINEAGE, staleness=1, limit=2)
    assert ((UUID(int=1), UUID(int=2)), ()) == (found.chosen, found.stale)


@pytest.mark.parametrize("staleness,chosen", [(0, [2]), (1, [1, 2]), (2, [0, 1, 2])])
def test_groups_beyond_the_bound_stay_memory(staleness: int, chosen: list[int]) -> None:
    """Age is counted in updates that were served, not in version numbers."""
    groups = [Group(0, "base"), Group(1, "planner@v1"), Group(2)]
    found = select(groups, lineage=LINEAGE, staleness=staleness)
    assert chosen == [question.int for question in found.chosen]
    assert {0, 1, 2} - set(chosen) == {question.int for question in found.stale}


def test_a_version_beside_the_lineage_is_too_old() -> None:
    """What a rolled back version sampled says nothing of its parent."""
    found = select([Group(0, "planner@v2")], lineage=LINEAGE, staleness=9)
    assert ((), (UUID(int=0),)) == (found.chosen, found.stale)


@given(st.lists(st.sampled_from(["base", "planner@v1", "planner@v2", "planner@v3"]), max_size=9),
       st.integers(0, 3))  # fmt: skip
def test_every_group_is_chosen_or_named_as_stale(policies: list[str], staleness: int) -> None:
    """None is lost, none is both."""
    groups = [Group(place, policy) for place, policy in enumerate(policies)]
    found = select(groups, lineage=LINEAGE, staleness=staleness)
    assert list(range(len(groups))) == sorted(one.int for one in found.chosen + found.stale)


def test_a_lineage_follows_parents() -> None:
    """A version that was held back has no children, so it is in no lineage but its own."""
    history = [
        trained("planner@v1", "base"),
        LearnerSealed(number=0, generation=1, training="promoted", policy="planner@v1"),
        trained("planner@v2", "planner@v1"),
        trained("planner@v3", "planner@v1"),
    ]
    assert LINEAGE == lineage_of(history, "planner@v3")
    assert ("base",) == lineage_of(history, "base")
    with pytest.raises(LookupError, match="planner@v9"):
        lineage_of(history, "planner@v9")


def test_a_bound_below_the_lag_is_refused() -> None:
    """It would throw away what was graded in time."""
    assert pacing_problem(lag=1, staleness=1) == ""
    assert "lag 2 a group may be 2 updates old" in pacing_problem(lag=2, staleness=1)


@given(st.integers(0, 3), st.integers(0, 9), st.integers(0, 9))
def test_a_batch_is_never_more_than_the_lag_ahead(lag: int, batch: int, sealed: int) -> None:
    """The rule by which the ledger opens batches."""
    assert (batch - sealed <= lag) == may_open(batch, sealed=sealed, lag=lag)


@given(st.integers(0, 3), st.integers(1, 12))
def test_what_pacing_lets_start_is_never_too_old(lag: int, batches: int) -> None:
    """However late a batch ends: its groups are at most `lag` updates old when their turn comes."""
    for batch in range(batches):
        pinned = max(0, batch - lag)  # the generation that it opened on, each at most one update
        assert batch - pinned <= lag
        chain = tuple(f"planner@v{n}" if n else "base" for n in range(batch + 1))
        found = select([Group(batch, chain[pinned])], lineage=chain, staleness=lag)
        assert ((UUID(int=batch),), ()) == (found.chosen, found.stale)


@pytest.mark.parametrize(
    "left, standing",
    [
        (2, {"limit": 10, "opened": 8}),
        (-1, {"limit": 10, "opened": 11}),
        (9, {"limit": 10, "opened": 8, "without_label": 7}),
        (1, {"limit": 10, "opened": 2, "graded": 5, "trained": 8}),
        (2, {"limit": 4, "opened": 2, "graded": 0, "trained": 8}),
    ],
)
def test_room_is_what_no_bound_takes(left: int, standing: dict[str, int]) -> None:
    """The bound on open questions, or that of learning where it is less; labels are no work."""
    assert left == room(**standing)
