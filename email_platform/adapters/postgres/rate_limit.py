"""The rate of a provider account in PostgreSQL: one row, one short transaction per batch of calls.

The generic cell rate algorithm (GCRA): `due_at` is when the account will have caught up with what was booked;
a call may start up to `burst_seconds` before its own due time. Throttling multiplies the account's share of its
rate (at most once a second, however many calls are refused), which then recovers linearly.

Invariant: between any two moments no more was booked than rate x (time + burst), over all processes.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Engine, text

from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.rate_limit import AccountRate

_CREATE = text(
    """
    insert into provider_rate (account, recipients_due_at, calls_due_at, blocked_until, share, share_at)
    values (:account, clock_timestamp(), clock_timestamp(), clock_timestamp(), 1, clock_timestamp())
    on conflict (account) do nothing
    """
)

# `now` is taken after the row's lock is held, or two processes could book the same moment.
_BOOK = text(
    """
    with held as materialized (
        select account, recipients_due_at, calls_due_at, blocked_until, share, share_at
        from provider_rate
        where account = :account
        for update
    ),
    present as materialized (
        select
            held.*,
            clock_timestamp() as now,
            least(1, share + :recovery * extract(epoch from clock_timestamp() - share_at)) as present_share
        from held
    ),
    booked as (
        select
            account,
            now,
            greatest(recipients_due_at, now) as recipients_from,
            greatest(calls_due_at, now) as calls_from,
            greatest(blocked_until, now) as blocked_until,
            present_share
        from present
    )
    update provider_rate
    set
        recipients_due_at = booked.recipients_from
            + make_interval(secs => :recipients * :recipient_seconds / booked.present_share),
        calls_due_at = booked.calls_from + make_interval(secs => :calls * :call_seconds / booked.present_share)
    from booked
    where provider_rate.account = booked.account
    returning
        extract(epoch from booked.recipients_from - booked.now)::float8 as recipients_wait,
        extract(epoch from booked.calls_from - booked.now)::float8 as calls_wait,
        extract(epoch from booked.blocked_until - booked.now)::float8 as blocked_seconds,
        booked.present_share::float8 as share
    """
)

_SLOW_DOWN = text(
    """
    update provider_rate
    set
        share = case
            when share_at > clock_timestamp() - interval '1 second' and share < 1 then share
            else greatest(
                :least,
                :slowdown * least(1, share + :recovery * extract(epoch from clock_timestamp() - share_at))
            )
        end,
        share_at = case
            when share_at > clock_timestamp() - interval '1 second' and share < 1 then share_at
            else clock_timestamp()
        end,
        blocked_until = greatest(blocked_until, clock_timestamp() + make_interval(secs => :retry_after_seconds))
    where account = :account
    """
)


class PostgresRateLimiter:
    """`email_platform.rate_limit.RateLimiter` for one provider account.

    Args:
        account: names the account, as provider/account.
        rate: what it allows.
    """

    def __init__(self, engine: Engine, account: str, rate: AccountRate) -> None:
        self._engine = engine
        self._account = account
        self._rate = rate
        self._created = False

    def reserve(self, recipients_per_call: Sequence[int]) -> Sequence[float]:
        """Book the calls in order; see the Protocol."""
        rate = self._rate
        recipient_seconds = 1 / rate.recipients_per_second if rate.recipients_per_second else 0.0
        call_seconds = 1 / rate.calls_per_second if rate.calls_per_second else 0.0
        with oltp_transaction(self._engine) as connection:
            if not self._created:
                connection.execute(_CREATE, {"account": self._account})
            booked = connection.execute(
                _BOOK,
                {
                    "account": self._account,
                    "recovery": rate.recovery_per_second,
                    "recipients": sum(recipients_per_call),
                    "recipient_seconds": recipient_seconds,
                    "calls": len(recipients_per_call),
                    "call_seconds": call_seconds,
                },
            ).one()
        self._created = True
        waits: list[float] = []
        recipients_before = 0
        for number, recipients in enumerate(recipients_per_call):
            recipients_due = booked.recipients_wait + recipients_before * recipient_seconds / booked.share
            calls_due = booked.calls_wait + number * call_seconds / booked.share
            due = max(recipients_due, calls_due) - rate.burst_seconds
            waits.append(max(0.0, due, booked.blocked_seconds))
            recipients_before += recipients
        return waits

    def throttled(self, retry_after_seconds: float | None) -> None:
        """Take a share off the account's rate, for everybody, and let nothing start before Retry-After."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                _SLOW_DOWN,
                {
                    "account": self._account,
                    "least": self._rate.least_share,
                    "slowdown": self._rate.slowdown,
                    "recovery": self._rate.recovery_per_second,
                    "retry_after_seconds": retry_after_seconds or 0.0,
                },
            )
