"""The token buckets let through what the rate says, and a refused call costs nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from email_platform.errors import ConfigurationError
from email_platform.local.provider_simulator.rate_limit import AccountRateLimiter, RateLimit


def test_without_limits_everything_passes() -> None:
    limiter = AccountRateLimiter(RateLimit(), 0.0)
    assert {limiter.admit(50, 0.0) for _ in range(1000)} == {0.0}


def test_recipients_are_counted_not_calls() -> None:
    limiter = AccountRateLimiter(RateLimit(recipients_per_second=100), 0.0)
    assert [limiter.admit(50, 0.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.5)]


def test_waiting_as_long_as_asked_is_enough() -> None:
    limiter = AccountRateLimiter(RateLimit(calls_per_second=3), 10.0)
    now_seconds = 10.0
    for _ in range(20):
        wait_seconds = limiter.admit(1, now_seconds)
        if wait_seconds:
            now_seconds += wait_seconds
            assert limiter.admit(1, now_seconds) == 0.0


def test_a_refused_call_takes_nothing_from_either_bucket() -> None:
    limiter = AccountRateLimiter(RateLimit(calls_per_second=1, recipients_per_second=100), 0.0)
    assert limiter.admit(10, 0.0) == 0.0
    for _ in range(50):
        assert limiter.admit(10, 0.0) == pytest.approx(1.0)
    assert limiter.admit(90, 1.0) == 0.0


def test_a_call_larger_than_the_burst_passes_and_leaves_a_debt() -> None:
    limiter = AccountRateLimiter(RateLimit(recipients_per_second=10), 0.0)
    assert limiter.admit(50, 0.0) == 0.0
    assert limiter.admit(1, 0.0) == pytest.approx(4.1)


def test_a_clock_that_steps_back_gives_no_allowance() -> None:
    limiter = AccountRateLimiter(RateLimit(calls_per_second=1), 100.0)
    assert limiter.admit(1, 100.0) == 0.0
    assert limiter.admit(1, 50.0) > 0.0


@given(
    gaps=st.lists(st.floats(min_value=0.0, max_value=2.0), min_size=1, max_size=60),
    sizes=st.lists(st.integers(min_value=1, max_value=5), min_size=60, max_size=60),
)
def test_no_more_is_let_through_than_burst_and_rate_allow(gaps: list[float], sizes: list[int]) -> None:
    limiter = AccountRateLimiter(RateLimit(recipients_per_second=5, burst_seconds=1), 0.0)
    now_seconds, admitted = 0.0, 0
    for gap, size in zip(gaps, sizes, strict=False):
        now_seconds += gap
        if limiter.admit(size, now_seconds) == 0.0:
            admitted += size
        assert admitted <= 5 + 5 * now_seconds + 1e-6


@pytest.mark.parametrize("field", ["calls_per_second", "recipients_per_second", "burst_seconds"])
def test_a_limit_of_nothing_is_refused(field: str) -> None:
    with pytest.raises(ConfigurationError, match=field):
        RateLimit(**{field: 0.0})
