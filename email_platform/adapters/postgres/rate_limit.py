"""The rate of a provider account in PostgreSQL: one row an account, one a campaign that uses it.

The generic cell rate algorithm (GCRA): `due_at` is when the account will have caught up with what was booked;
a call may start up to `burst_seconds` before its own due time. Throttling multiplies the account's share of its
rate (at most once a second, however many calls are refused), which then recovers linearly.

Fair shares: a campaign has a due time of its own, which its calls push forward; each push is multiplied by the number
of campaigns at work on the account. It holds a campaign back only while the account is booked ahead, so a share that
its owner does not use goes to the others.

Invariant: between any two moments no more was booked than rate x (time + burst), over all processes; and nothing
is booked further ahead than `HORIZON_SECONDS`, so that a campaign that starts late finds the account's next second free
to share.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.sending.rate_limit import AccountRate, Reservation

HORIZON_SECONDS = 1.0
ACTIVE_SECONDS = 5.0  # a campaign that waits asks at least twice a second

_CREATE = text(
    """
    insert into provider_rate (account, recipients_due_at, calls_due_at, blocked_until, share, share_at)
    values (:account, clock_timestamp(), clock_timestamp(), clock_timestamp(), 1, clock_timestamp())
    on conflict (account) do nothing
    """
)
_FORGET = text(
    "delete from provider_rate_flow where account = :account and seen_at < clock_timestamp() - interval '1 day'"
)

_LOCK = text("select 1 from provider_rate where account = :account for update")

# A statement of its own, so that it reads everything, above all `now`, after the lock is taken. Otherwise two processes
# could book the same moment.
_STATE = text(
    """
    with flow as (
        insert into provider_rate_flow (account, campaign_id, due_at, seen_at)
        values (:account, :campaign_id, clock_timestamp(), clock_timestamp())
        on conflict (account, campaign_id) do update set seen_at = excluded.seen_at
        returning due_at
    )
    select
        clock_timestamp() as now,
        recipients_due_at,
        calls_due_at,
        blocked_until,
        least(1, share + :recovery * extract(epoch from clock_timestamp() - share_at))::float8 as share,
        flow.due_at as flow_due_at,
        (
            select count(*)
            from provider_rate_flow
            where
                account = :account
                and campaign_id <> :campaign_id
                and seen_at > clock_timestamp() - make_interval(secs => :active_seconds)
        ) + 1 as campaigns
    from provider_rate, flow
    where account = :account
    """
)

_BOOK = text(
    """
    with flow as (
        update provider_rate_flow
        set due_at = :flow_due_at
        where account = :account and campaign_id = :campaign_id
    )
    update provider_rate
    set recipients_due_at = :recipients_due_at, calls_due_at = :calls_due_at
    where account = :account
    """
)

_SLOW_DOWN = text(
    """
    update provider_rate
    set
        throttles = throttles + 1,
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
    """`email_platform.sending.rate_limit.RateLimiter` for one campaign's use of one provider account.

    Args:
        account: names the account, as provider/account.
        rate: what it allows.
        campaign_id: the campaign whose share the calls are booked on.
    """

    def __init__(self, engine: Engine, account: str, rate: AccountRate, campaign_id: int) -> None:
        self._engine = engine
        self._account = account
        self._rate = rate
        self._campaign_id = campaign_id
        self._created = False

    def reserve(self, recipients_per_call: Sequence[int]) -> Reservation:
        """Book the calls in order, as far as the horizon; see the Protocol."""
        key = {"account": self._account, "campaign_id": self._campaign_id}
        with oltp_transaction(self._engine) as connection:
            if not self._created:
                connection.execute(_CREATE, {"account": self._account})
                connection.execute(_FORGET, {"account": self._account})
            connection.execute(_LOCK, {"account": self._account})
            state = connection.execute(
                _STATE, {**key, "recovery": self._rate.recovery_per_second, "active_seconds": ACTIVE_SECONDS}
            ).one()
            reservation = self._book(connection, key, state, recipients_per_call)
        self._created = True
        return reservation

    def _book(
        self, connection: Connection, key: dict[str, Any], state: Any, recipients_per_call: Sequence[int]
    ) -> Reservation:
        rate, now, share = self._rate, state.now, state.share
        recipient_seconds = 1 / rate.recipients_per_second / share if rate.recipients_per_second else 0.0
        call_seconds = 1 / rate.calls_per_second / share if rate.calls_per_second else 0.0
        blocked_seconds = (state.blocked_until - now).total_seconds()
        # All in seconds from now.
        recipients_due = max(0.0, (state.recipients_due_at - now).total_seconds())
        calls_due = max(0.0, (state.calls_due_at - now).total_seconds())
        flow_due = max(0.0, (state.flow_due_at - now).total_seconds())
        waits: list[float] = []
        ask_again_seconds = 0.0
        for recipients in recipients_per_call:
            account_due = max(recipients_due, calls_due)
            is_crowded = state.campaigns > 1 and account_due > 0
            due = max(account_due, flow_due) if is_crowded else account_due
            wait = max(0.0, due - rate.burst_seconds, blocked_seconds)
            if wait > HORIZON_SECONDS:
                ask_again_seconds = min(wait - HORIZON_SECONDS, HORIZON_SECONDS)
                break
            waits.append(wait)
            recipients_due += recipients * recipient_seconds
            calls_due += call_seconds
            if is_crowded:
                flow_due += max(recipients * recipient_seconds, call_seconds) * state.campaigns
        if waits:
            connection.execute(
                _BOOK,
                {
                    **key,
                    "recipients_due_at": now + timedelta(seconds=recipients_due),
                    "calls_due_at": now + timedelta(seconds=calls_due),
                    "flow_due_at": now + timedelta(seconds=flow_due),
                },
            )
        return Reservation(tuple(waits), ask_again_seconds)

    def throttled(self, retry_after_seconds: float | None) -> None:
        """Lower the account's rate by a share, for every campaign, and let no call start before Retry-After."""
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
