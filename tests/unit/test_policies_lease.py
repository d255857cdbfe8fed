"""Deaths of workers: what isolates a command, and what condemns it."""

from hypothesis import given
from hypothesis import strategies as st

from mia_events.policies.lease import IsolationPolicy

_POLICY = IsolationPolicy(deaths_before_isolation=2, max_isolated_deaths=2)
_COUNT = st.integers(0, 50)


@given(_COUNT)
def test_stated_failures_never_isolate(failures: int) -> None:
    """An attempt that ended in an error did not end its worker."""
    assert not _POLICY.isolate(attempt=failures + 1, failures=failures, isolated_deaths=0)


@given(_COUNT, _COUNT)
def test_two_deaths_isolate(failures: int, deaths: int) -> None:
    """Attempts that are no stated failures died; two of them are enough."""
    attempt = 1 + failures + deaths
    assert (deaths >= 2) is _POLICY.isolate(attempt=attempt, failures=failures, isolated_deaths=0)


@given(_COUNT, st.integers(1, 10))
def test_once_isolated_always_isolated(failures: int, isolated: int) -> None:
    """After a death in isolation the command never shares a process again."""
    attempt = 1 + failures + isolated
    assert _POLICY.isolate(attempt=attempt, failures=failures, isolated_deaths=isolated)


@given(_COUNT)
def test_only_deaths_in_isolation_condemn(isolated: int) -> None:
    """Random kills of shared workers never reach the dead letter, however many there are."""
    assert (isolated >= 2) is _POLICY.give_up(isolated_deaths=isolated)
