"""Makes an old `email` table as the previous system would have left it: millions of rows, hostile ones among them.

Invariant: row n depends on (seed, n) alone, and every row is made inside PostgreSQL by set-based statements: no row
passes through Python. The table is the one of docs/old_email_table.md with all of its indexes.

The table contains what a real one has: double sends of the same campaign and lead, rows that were queued and
never sent, bounces that came days later, ids that are not quite in the order of created_at, microseconds, empty
strings beside nulls, quotes, tabs, line ends, backslashes, emoji, right-to-left text, addresses of 320 characters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date

from sqlalchemy import Connection, Engine, make_url, text

from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import ConfigurationError
from email_platform.settings import LEGACY_DATABASE, Settings, external_parts, text_of, variable_of

# Old ids in the demo stay clear of the platform's own, which count from 1; users are the same people.
FIRST_CAMPAIGN_ID = 900_001
USERS = 40
_LEADS = 1_000_003  # a prime: n * k modulo it visits every lead once
_BATCH_ROWS = 500_000

COLUMNS = (
    *("id", "campaign_id", "user_id", "lead_id", "email", "subject", "status", "provider_message_id", "error"),
    *("sent_at", "created_at", "updated_at"),
)

CREATE_TABLE = """
create table if not exists email (
    id                   bigserial primary key,
    campaign_id          bigint      not null,
    user_id              bigint      not null,
    lead_id              bigint      not null,
    email                text        not null,
    subject              text        not null,
    status               text        not null default 'queued',
    provider_message_id  text,
    error                text,
    sent_at              timestamptz,
    created_at           timestamptz not null default now(),
    updated_at           timestamptz not null default now()
)
"""

INDEXES = (
    "create index if not exists ix_email_campaign_id on email (campaign_id)",
    "create index if not exists ix_email_user_id on email (user_id)",
    "create index if not exists ix_email_lead_id on email (lead_id)",
    "create index if not exists ix_email_email on email (email)",
    "create index if not exists ix_email_lower_email on email (lower(email))",
    "create index if not exists ix_email_status on email (status)",
    "create index if not exists ix_email_campaign_id_status on email (campaign_id, status)",
    "create index if not exists ix_email_user_id_campaign_id on email (user_id, campaign_id)",
    "create index if not exists ix_email_user_id_created_at on email (user_id, created_at)",
    "create index if not exists ix_email_sent_at on email (sent_at)",
    "create index if not exists ix_email_created_at on email (created_at)",
    "create index if not exists ix_email_updated_at on email (updated_at)",
    "create unique index if not exists ux_email_provider_message_id on email (provider_message_id)",
)

# r1 to r6 are independent 31-bit numbers of (n, seed). Shares: 92.5 % sent, 3 % failed, 4 % bounced, 0.5 % queued.
# n of one campaign are contiguous, so a lead comes twice only where the row takes its neighbour's (0.1 %).
_ROWS = r"""
with numbers as (
    select
        n,
        hashint8extended(n, :seed) & 2147483647 as r1,
        hashint8extended(n, :seed + 1) & 2147483647 as r2,
        hashint8extended(n, :seed + 2) & 2147483647 as r3
    from generate_series(cast(:first as bigint), cast(:last as bigint)) as n
),
placed as (
    select
        n,
        r1,
        r2,
        r3,
        :first_campaign_id + n / :rows_per_campaign as campaign_id,
        ((n - case when r1 % 1000 = 0 then 1 else 0 end) * 7368787) % :leads + 1 as lead_id,
        cast(:start as timestamptz)
            + (n::double precision / :rows) * make_interval(secs => :seconds)
            - make_interval(secs => r2 / 300000.0) as created_at,
        case when r3 % 1000 < 925 then 'sent' when r3 % 1000 < 955 then 'failed'
            when r3 % 1000 < 995 then 'bounced' else 'queued' end as status
    from numbers
)
select
    n,
    campaign_id,
    (campaign_id * 7) % :users + 1,
    lead_id,
    case
        when lead_id % 20011 = 0 then 'o''brien "the '' boss"' || lead_id || '@exämple.org'
        when lead_id % 20011 = 1
            then repeat('l', 64) || '@' || repeat('d', 244) || lpad(lead_id::text, 7, '0') || '.org'
        when lead_id % 20011 = 2 then E'شلم\u202E' || lead_id || '@مثال.إختبار'
        when lead_id % 20011 = 3 then '😀🏳️‍🌈' || lead_id || '@emoji.example'
        when lead_id % 20011 = 4 then E'tab\there\nline\r\nend\\N\\' || lead_id || ',;|@x.org '
        when lead_id % 20011 = 5 then ''
        when lead_id % 20011 = 6 then '  UPPER.' || lead_id || '@EXAMPLE.ORG'
        else (array['anna','ben','chen','dina','emil','fatima','goran','hana'])[lead_id % 8 + 1] || '.'
            || (array['kim','lopez','meyer','novak','okafor','patel','rossi'])[lead_id % 7 + 1] || lead_id || '@'
            || (array['gmail.com','gmail.com','gmail.com','outlook.com','outlook.com','yahoo.com','icloud.com','gmx.de',
                'web.de','proton.me','mail' || lead_id % 5000 || '.example'])[lead_id % 11 + 1]
    end,
    case r2 % 1000 when 0 then 'It''s "50 %" off 😀 {{ name }}' when 1 then '' when 2 then E'Zeile 1\nZeile 2\t\\N'
        else 'Campaign ' || campaign_id || ': news for you' end,
    status,
    case when status in ('sent', 'bounced')
        then '0100018f' || substr(md5(n::text), 1, 8) || '-' || md5(n::text || '-' || :seed) || '-000000' end,
    case when status = 'failed' then (array['421 try again later','550 5.1.1 user unknown','Throttling: rate exceeded',
            E'refused:\n\t"it''s full"','',''])[r1 % 6 + 1]
        when status = 'bounced' then '550 5.1.1 user unknown' end,
    case when status in ('sent', 'bounced') then created_at + make_interval(secs => r1 % 900000000 / 1000000.0) end,
    created_at,
    created_at + make_interval(secs => case when status = 'bounced' then r1 % 259200 + 900.5
        when status = 'queued' then 0 else r1 % 900000000 / 1000000.0 end)
from placed
"""


@dataclass(frozen=True, slots=True)
class LegacyTable:
    """What to put into the old table.

    Attributes:
        rows: how many; a table that has more keeps them.
        first_month, months: over which created_at is spread evenly.
    """

    rows: int
    first_month: date
    months: int
    seed: int = 1

    @property
    def rows_per_campaign(self) -> int:
        """At most 60 campaigns a month, as large as that makes them."""
        return max(1, math.ceil(self.rows / (self.months * 60)))


@contextmanager
def practice_database(settings: Settings, variables: Mapping[str, str]) -> Iterator[Engine]:
    """The database `LEGACY_DATABASE` on the embedded server, made where it is missing.

    Raises:
        ConfigurationError: the environment names an external database: nothing is ever generated there.
    """
    if "postgres" in external_parts(variables) or text_of("legacy_url", variables):
        raise ConfigurationError(
            f"old rows are generated on the embedded server only, never in a database that "
            f"{variable_of('postgres_url')} or {variable_of('legacy_url')} names: unset them"
        )
    server = create_oltp_engine(settings.postgres_url.get_secret_value())
    try:
        with server.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            found = connection.execute(
                text("select 1 from pg_database where datname = :name"), {"name": LEGACY_DATABASE}
            ).scalar()
            if not found:
                connection.execute(text(f"create database {LEGACY_DATABASE}"))
    finally:
        server.dispose()
    url = make_url(settings.postgres_url.get_secret_value()).set(database=LEGACY_DATABASE)
    engine = create_oltp_engine(url.render_as_string(hide_password=False))
    try:
        yield engine
    finally:
        engine.dispose()


def generate_legacy_emails(
    engine: Engine,
    table: LegacyTable,
    *,
    with_indexes: bool = True,
    on_progress: Callable[[int], None] = lambda _: None,
) -> int:
    """Have at least so many old rows in the table ``email`` of this database; returns how many were added.

    Args:
        engine: the old database, never the platform's own one in production.
        table: how many rows, of which months.
        with_indexes: also make the 13 indexes (after the rows: an empty table is filled in a fraction of the time).
        on_progress: called with the number of rows made so far.
    """
    with oltp_transaction(engine) as connection:
        connection.execute(text(CREATE_TABLE))
        existing: int = connection.execute(text("select coalesce(max(id), 0) from email")).scalar_one()
    for first in range(existing + 1, table.rows + 1, _BATCH_ROWS):
        last = min(first + _BATCH_ROWS - 1, table.rows)
        with oltp_transaction(engine) as connection:
            insert_rows(connection, table, first, last)
        on_progress(last)
    if with_indexes:
        for index in INDEXES:
            with oltp_transaction(engine) as connection:
                connection.execute(text("set local maintenance_work_mem = '256MB'"))
                connection.execute(text(index))
    with oltp_transaction(engine) as connection:
        connection.execute(text("select setval(pg_get_serial_sequence('email', 'id'), max(id)) from email"))
        connection.execute(text("analyze email"))
    return max(0, table.rows - existing)


def insert_rows(connection: Connection, table: LegacyTable, first: int, last: int, into: str = "email") -> None:
    """Insert rows number `first` to `last`, both inclusive, in their order."""
    end_month = table.first_month.month - 1 + table.months
    end = date(table.first_month.year + end_month // 12, end_month % 12 + 1, 1)
    connection.execute(
        text(f"insert into {into} ({', '.join(COLUMNS)})\n{_ROWS}\norder by n"),
        {
            "seed": table.seed,
            "first": first,
            "last": last,
            "rows": table.rows,
            "first_campaign_id": FIRST_CAMPAIGN_ID,
            "rows_per_campaign": table.rows_per_campaign,
            "leads": _LEADS,
            "users": USERS,
            "start": f"{table.first_month.isoformat()} 03:00:00+00",
            "seconds": (end - table.first_month).total_seconds() - 4 * 3600,
        },
    )
