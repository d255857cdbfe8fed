"""Planner versions by name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.learning.versions import BASE, is_served_name, number_of, served_name, version_name

_SHA = "0123456789abcdef" * 4


@given(st.integers(min_value=0, max_value=10**9))
def test_a_name_tells_its_number(number: int) -> None:
    """The base model is version 0 of every run."""
    assert number == number_of(version_name(number))


@pytest.mark.parametrize("name", ["planner", "planner@v0", "planner@v01", "planner@v1 ", "Base"])
def test_other_models_are_no_versions(name: str) -> None:
    """A model that only looks like a version must not be looked for in the registry."""
    assert number_of(name) is None


def test_a_server_tells_versions_of_two_runs_apart() -> None:
    """Both call theirs version 1; the weights differ, and so do the names."""
    ours, theirs = served_name("planner@v1", _SHA), served_name("planner@v1", _SHA[::-1])
    assert "planner@v1-0123456789ab" == ours
    assert ours != theirs
    assert is_served_name(ours)
    assert not is_served_name("planner@v1")
    assert not is_served_name(BASE)


def test_there_is_no_version_below_the_base() -> None:
    """A negative number is a mistake of the caller."""
    with pytest.raises(ValueError, match="-1"):
        version_name(-1)
