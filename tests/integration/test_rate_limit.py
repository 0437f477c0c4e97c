"""The shared rate of a provider account on real PostgreSQL: what is booked never exceeds rate x (time + burst)."""

from __future__ import annotations

import threading
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from email_platform.adapters.postgres.rate_limit import PostgresRateLimiter
from email_platform.rate_limit import AccountRate, Unlimited

pytestmark = pytest.mark.integration


def limiter(engine: Engine, rate: AccountRate, account: str | None = None) -> PostgresRateLimiter:
    return PostgresRateLimiter(engine, account or f"simulator/{uuid4()}", rate)


def test_a_burst_starts_at_once_and_the_rest_in_step_with_the_rate(oltp_engine: Engine) -> None:
    booked = limiter(oltp_engine, AccountRate(recipients_per_second=100, burst_seconds=1)).reserve([50] * 6)
    assert booked[:3] == [0.0, 0.0, 0.0]
    assert booked[3:] == pytest.approx([0.5, 1.0, 1.5], abs=0.01)


def test_recipients_and_calls_are_both_held_to(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=1000, calls_per_second=2, burst_seconds=0)
    assert limiter(oltp_engine, rate).reserve([50] * 4) == pytest.approx([0, 0.5, 1.0, 1.5], abs=0.01)


def test_processes_share_one_account_and_book_no_moment_twice(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=50, burst_seconds=0)
    account = f"simulator/{uuid4()}"
    waits: list[float] = []
    barrier = threading.Barrier(4)

    def book() -> None:
        one = limiter(oltp_engine, rate, account)
        barrier.wait()
        for _ in range(5):
            waits.extend(one.reserve([50]))

    threads = [threading.Thread(target=book) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gaps = [later - earlier for earlier, later in zip(sorted(waits), sorted(waits)[1:], strict=False)]
    assert len(waits) == 20
    assert max(waits) >= 18.0, (
        "twenty bookings of one second each must reach nineteen seconds ahead, less the run's time"
    )
    assert min(gaps) > 0.5


def test_accounts_do_not_wait_for_each_other(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=1, burst_seconds=0)
    limiter(oltp_engine, rate).reserve([100])
    assert limiter(oltp_engine, rate).reserve([1]) == [0.0]


def test_retry_after_holds_every_process_back(oltp_engine: Engine) -> None:
    rate, account = AccountRate(recipients_per_second=1_000_000), f"simulator/{uuid4()}"
    first, second = limiter(oltp_engine, rate, account), limiter(oltp_engine, rate, account)
    first.reserve([1])
    first.throttled(30.0)
    (wait,) = second.reserve([1])
    assert 25 < wait <= 30


def test_throttling_slows_down_once_a_second_and_never_below_the_least_share(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=10, burst_seconds=0, recovery_per_second=0)
    account = f"simulator/{uuid4()}"
    one = limiter(oltp_engine, rate, account)
    one.reserve([1])
    for _ in range(16):
        one.throttled(None)
    assert share(oltp_engine, account) == pytest.approx(0.7)
    for _ in range(20):
        with oltp_engine.begin() as connection:
            connection.execute(
                text("update provider_rate set share_at = share_at - interval '2 seconds' where account = :a"),
                {"a": account},
            )
        one.throttled(None)
    assert share(oltp_engine, account) == pytest.approx(0.1)


def test_the_share_recovers_with_time(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=100, burst_seconds=0, recovery_per_second=0.1)
    account = f"simulator/{uuid4()}"
    one = limiter(oltp_engine, rate, account)
    one.reserve([0])
    one.throttled(None)
    with oltp_engine.begin() as connection:
        connection.execute(
            text("update provider_rate set share_at = share_at - interval '60 seconds' where account = :a"),
            {"a": account},
        )
    waits = one.reserve([100, 100])
    assert waits[1] - waits[0] == pytest.approx(1.0, abs=0.01)


def test_an_account_without_a_rate_never_waits() -> None:
    assert Unlimited().reserve([50, 50]) == [0.0, 0.0]


def share(engine: Engine, account: str) -> float:
    with engine.connect() as connection:
        return float(
            connection.execute(text("select share from provider_rate where account = :a"), {"a": account}).scalar_one()
        )
