"""The figures that are watched, each read by one bounded statement.

Invariant: no statement's cost grows with past campaigns. Each reads the head of a partial index that holds only what
is open or waits, or a table with one row an account; and stops counting at `MOST_ROWS`, which a figure then shows as
"at least". A row with an odd time (infinity, a year that Python does not know) is counted, and gives no age.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, Executable, func, select, text

from email_platform.adapters.postgres.due import DUE_SINCE_SQL
from email_platform.adapters.postgres.ledger_rows import is_unknown
from email_platform.adapters.postgres.rate_limit import ACTIVE_SECONDS
from email_platform.adapters.postgres.tables import send_call
from email_platform.adapters.postgres.transactions import oltp_transaction

MOST_ROWS = 200_000
MOST_ACCOUNTS = 1_000
STATEMENT_SECONDS = 5

_CAMPAIGNS = text(
    f"""
    with open_ones as (
        select status, {DUE_SINCE_SQL} as since, coalesce(progress_at, started_at, queued_at) as alive_at
        from campaign where status in ('queued', 'sending') limit :most
    )
    select
        status,
        count(*) as campaigns,
        count(*) filter (where since <= clock_timestamp() and not is_odd_time(since)) as due,
        extract(epoch from clock_timestamp() - min(since) filter (
            where since <= clock_timestamp() and not is_odd_time(since)
        ))::float8 as queued_seconds,
        extract(epoch from clock_timestamp() - min(alive_at) filter (where not is_odd_time(alive_at)))::float8
            as silent_seconds
    from open_ones group by status
    union all
    select status, count(*), 0, null, null
    from (select status from campaign where status in ('draft', 'paused') limit :most) as resting
    group by status
    """  # noqa: S608 (an expression of our own)
)

_ACCOUNTS = text(
    """
    select
        account,
        greatest(0, extract(epoch from greatest(recipients_due_at, calls_due_at) - clock_timestamp()))::float8
            as booked_seconds,
        greatest(0, extract(epoch from blocked_until - clock_timestamp()))::float8 as blocked_seconds,
        share,
        greatest(0, extract(epoch from clock_timestamp() - share_at))::float8 as share_seconds,
        throttles,
        (
            select count(*)
            from provider_rate_flow as flow
            where
                flow.account = provider_rate.account
                and flow.seen_at > clock_timestamp() - make_interval(secs => :active_seconds)
        ) as campaigns
    from provider_rate
    order by account
    limit :most
    """
)

_STAGING = text(
    """
    select
        count(*) filter (where quarantined_reason is null) as waiting,
        count(*) filter (where quarantined_reason is not null) as quarantined,
        extract(epoch from clock_timestamp() - min(staged_at) filter (
            where quarantined_reason is null and not is_odd_time(staged_at)
        ))::float8 as waiting_seconds
    from (
        select staged_at, quarantined_reason from staged_object
        where loaded_sha256 is distinct from content_sha256 limit :most
    ) as unloaded
    """
)

_ALERTS = text("select count(*) from (select 1 from campaign_guard where alerted_at is null limit :most) as waiting")


@dataclass(frozen=True, slots=True)
class CampaignFigures:
    """Campaigns of one status that is no end.

    Attributes:
        due: those whose time has come (`DUE_SINCE_SQL`).
        queued_seconds, silent_seconds: since the oldest of these was due, and since the quietest one's last sign of
            life; None for a status that does not wait, or where no time can be read.
    """

    status: str
    campaigns: int
    due: int
    queued_seconds: float | None
    silent_seconds: float | None


@dataclass(frozen=True, slots=True)
class AccountFigures:
    """One provider account that has a rate.

    Attributes:
        account: provider/account.
        booked_seconds: how far ahead of now calls are booked.
        blocked_seconds: how long no call may start, by the answer of the provider.
        share, share_seconds: of the configured rate when it was last throttled, and how long ago that was.
        throttles: throttled calls, ever.
        campaigns: how many asked for a place in the last seconds.
    """

    account: str
    booked_seconds: float
    blocked_seconds: float
    share: float
    share_seconds: float
    throttles: int
    campaigns: int


@dataclass(frozen=True, slots=True)
class StagingFigures:
    """Staged objects that the warehouse does not hold; `waiting_seconds` is the oldest one's, None without any."""

    waiting: int
    quarantined: int
    waiting_seconds: float | None


@dataclass(frozen=True, slots=True)
class CallFigures:
    """Calls without an answer: `open_calls` are at work, `unknown` have nobody who waits for their answer."""

    open_calls: int
    unknown: int


class PostgresFigures:
    """Reads each group of figures in one short transaction.

    Every method raises `PartUnavailableError` where PostgreSQL does not answer.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def campaigns(self) -> Sequence[CampaignFigures]:
        """By status: draft, queued, sending, paused; a status without campaigns is left out."""
        return [CampaignFigures(*row) for row in self._rows(_CAMPAIGNS, most=MOST_ROWS)]

    def accounts(self) -> Sequence[AccountFigures]:
        """The first `MOST_ACCOUNTS` accounts by name."""
        return [
            AccountFigures(*row) for row in self._rows(_ACCOUNTS, most=MOST_ACCOUNTS, active_seconds=ACTIVE_SECONDS)
        ]

    def staging(self) -> StagingFigures:
        """What waits to be loaded, and what was set aside."""
        return StagingFigures(*self._rows(_STAGING, most=MOST_ROWS)[0])

    def alerts_waiting(self) -> int:
        """Alerts of stopped campaigns that nobody has taken."""
        return int(self._rows(_ALERTS, most=MOST_ROWS)[0][0])

    def calls(self) -> CallFigures:
        """Calls whose outcome is open, by whether a live process waits for it."""
        unanswered = (
            select(is_unknown().label("is_unknown"))
            .where(send_call.c.state.in_(("intent", "unknown")))
            .limit(MOST_ROWS)
            .subquery()
        )
        is_lost = unanswered.c.is_unknown
        statement = select(func.count().filter(~is_lost), func.count().filter(is_lost)).select_from(unanswered)
        return CallFigures(*self._rows(statement)[0])

    def _rows(self, statement: Executable, **values: object) -> Sequence[Any]:
        with oltp_transaction(self._engine) as connection:
            connection.exec_driver_sql(f"set local statement_timeout = '{STATEMENT_SECONDS}s'")
            return connection.execute(statement, values).all()
