"""The shared rate of a provider account on real PostgreSQL: what is booked never exceeds rate x (time + burst)."""

from __future__ import annotations

import threading
import time
from collections import Counter
from uuid import uuid4

import pytest
from sqlalchemy import Engine, text

from email_platform.adapters.postgres.rate_limit import PostgresRateLimiter
from email_platform.sending.rate_limit import AccountRate, Unlimited

pytestmark = pytest.mark.integration


def limiter(engine: Engine, rate: AccountRate, account: str | None = None, campaign_id: int = 1) -> PostgresRateLimiter:
    return PostgresRateLimiter(engine, account or f"simulator/{uuid4()}", rate, campaign_id)


def test_a_burst_starts_at_once_and_the_rest_in_step_with_the_rate(oltp_engine: Engine) -> None:
    one = limiter(oltp_engine, AccountRate(recipients_per_second=100, burst_seconds=1))
    booked = one.reserve([50] * 6)
    assert booked.waits[:3] == (0.0, 0.0, 0.0)
    assert booked.waits[3:] == pytest.approx([0.5, 1.0], abs=0.01)
    assert booked.ask_again_seconds == pytest.approx(0.5, abs=0.01), "the sixth is beyond the horizon: not booked yet"
    time.sleep(booked.ask_again_seconds)
    (wait,) = one.reserve([50]).waits
    assert 0.5 < wait <= 1.0


def test_recipients_and_calls_are_both_held_to(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=1000, calls_per_second=2, burst_seconds=0)
    assert limiter(oltp_engine, rate).reserve([50] * 4).waits == pytest.approx([0, 0.5, 1.0], abs=0.01)


def test_processes_share_one_account_and_book_no_moment_twice(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=500, burst_seconds=0)
    account = f"simulator/{uuid4()}"
    starts: list[float] = []
    barrier = threading.Barrier(4)

    def book() -> None:
        one = limiter(oltp_engine, rate, account)
        barrier.wait()
        booked = 0
        while booked < 5:
            reservation = one.reserve([50])
            starts.extend(time.monotonic() + wait for wait in reservation.waits)
            booked += len(reservation.waits)
            time.sleep(reservation.ask_again_seconds)

    threads = [threading.Thread(target=book) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(starts) == 20
    assert max(starts) - min(starts) >= 1.8, "twenty bookings of a tenth of a second each take nineteen tenths"
    gaps = [later - earlier for earlier, later in zip(sorted(starts), sorted(starts)[1:], strict=False)]
    assert min(gaps) > 0.05


def test_a_campaign_that_comes_late_has_its_share_however_many_processes_the_other_has(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=1000, burst_seconds=0.1)
    account = f"simulator/{uuid4()}"
    booked: Counter[int] = Counter()
    stop = threading.Event()

    def send(campaign_id: int) -> None:
        one = limiter(oltp_engine, rate, account, campaign_id)
        while not stop.is_set():
            reservation = one.reserve([50] * 16)
            booked[campaign_id] += 50 * len(reservation.waits)
            stop.wait(max(0.05, reservation.ask_again_seconds))

    threads = [threading.Thread(target=send, args=(1,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    alone = booked[1]
    late = threading.Thread(target=send, args=(2,))
    late.start()
    time.sleep(4)
    stop.set()
    for thread in (*threads, late):
        thread.join()
    assert alone >= 2000, "alone it has the whole account: what is not used by others is not lost"
    assert booked[2] >= 0.35 * (booked[1] - alone + booked[2]), "six processes against one, and yet about a half"
    assert booked[1] + booked[2] <= 1000 * (5.5 + 0.1 + 1.0 + 0.7), (
        "time, burst and horizon, and what the run took more"
    )


def test_a_share_that_its_campaign_does_not_use_goes_to_the_others(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=1000, burst_seconds=0)
    account = f"simulator/{uuid4()}"
    limiter(oltp_engine, rate, account, campaign_id=2).reserve([1])  # at work, and asks for nothing more
    busy, booked = limiter(oltp_engine, rate, account, campaign_id=1), 0
    end = time.monotonic() + 2
    while time.monotonic() < end:
        reservation = busy.reserve([50] * 4)
        booked += 50 * len(reservation.waits)
        time.sleep(min(0.05, max(0.01, reservation.ask_again_seconds)))
    assert booked >= 1600


def test_accounts_do_not_wait_for_each_other(oltp_engine: Engine) -> None:
    rate = AccountRate(recipients_per_second=1, burst_seconds=0)
    limiter(oltp_engine, rate).reserve([100])
    assert limiter(oltp_engine, rate).reserve([1]).waits == (0.0,)


def test_retry_after_holds_every_process_back(oltp_engine: Engine) -> None:
    rate, account = AccountRate(recipients_per_second=1_000_000), f"simulator/{uuid4()}"
    first, second = limiter(oltp_engine, rate, account), limiter(oltp_engine, rate, account)
    first.reserve([1])
    first.throttled(2.0)
    held_back = second.reserve([1])
    assert held_back.waits == (), "nothing is booked beyond the horizon"
    time.sleep(held_back.ask_again_seconds + 0.1)
    (wait,) = second.reserve([1]).waits
    assert 0.5 < wait <= 1.0


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
    waits = one.reserve([100, 100]).waits
    assert waits[1] - waits[0] == pytest.approx(1.0, abs=0.01)


def test_an_account_without_a_rate_never_waits() -> None:
    assert Unlimited().reserve([50, 50]).waits == (0.0, 0.0)


def share(engine: Engine, account: str) -> float:
    with engine.connect() as connection:
        return float(
            connection.execute(text("select share from provider_rate where account = :a"), {"a": account}).scalar_one()
        )
