"""Retries: which errors, how often, how long between."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mia_events.policies.retry import Decision, RetryPolicy
from mia_events.steps import Late, NonDeterminism, OutcomeUnknown, Poison, Transient

_POLICY = RetryPolicy(base_s=0.5, cap_s=30.0, max_failures=8, max_defects=2)


@pytest.mark.parametrize("error", [Poison("x"), NonDeterminism("x"), OutcomeUnknown("x")])
def test_poison_is_never_retried(error: Exception) -> None:
    """What can never succeed is dead-lettered at the first failure."""
    assert Decision(None) == _POLICY.decide(error, failures=0, key="k")


@given(st.floats(0, 1e6), st.integers(0, 1_000))
def test_late_is_retried_for_ever_after_its_own_delay(delay_s: float, failures: int) -> None:
    """Waiting is no failure, so no limit applies."""
    expected = Decision(delay_s, counts=False)
    assert expected == _POLICY.decide(Late("x", delay_s), failures=failures, key="k")


@given(st.integers(0, 1_000))
def test_a_ledger_that_is_away_blames_no_command(failures: int) -> None:
    """However often it happens, the command is tried again and the failure is not counted."""
    decision = _POLICY.decide(ConnectionResetError("x"), failures=failures, key="k")
    assert decision.delay_s is not None
    assert not decision.counts


@pytest.mark.parametrize("error, limit", [(Transient("x"), 8), (KeyError("x"), 2)])
def test_the_last_failure_is_final(error: Exception, limit: int) -> None:
    """Up to the limit there is another try, then none; a defect has fewer."""
    assert _POLICY.decide(error, failures=limit - 1, key="k").delay_s is not None
    assert _POLICY.decide(error, failures=limit, key="k").delay_s is None


@given(st.integers(0, 10_000), st.text())
def test_delays_are_bounded_and_repeatable(failures: int, key: str) -> None:
    """Each is half to all of the capped exponential, and a function of the command."""
    whole = min(30.0, 0.5 * 2.0 ** min(failures, 30))
    delay = _POLICY.delay_s(failures, key)
    assert whole / 2 <= delay <= whole
    assert delay == _POLICY.delay_s(failures, key)


@given(st.integers(0, 4), st.text())
def test_delays_do_not_shrink_before_the_cap(failures: int, key: str) -> None:
    """The jitter is at most a factor of two, the growth exactly one."""
    assert _POLICY.delay_s(failures, key) <= _POLICY.delay_s(failures + 1, key)


def test_commands_that_fail_together_do_not_come_back_together() -> None:
    """The jitter spreads a thousand commands over half the delay."""
    delays = {round(_POLICY.delay_s(3, str(number)), 3) for number in range(1_000)}
    assert len(delays) > 100
