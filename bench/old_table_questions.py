"""What is asked of both sides, how large they are, and the arithmetic that makes the same rows on each.

Invariant: a row follows from its number alone, so both engines hold the same emails and must answer the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import md5
from typing import Any, Literal
from uuid import UUID

from email_platform.adapters.clickhouse.key_index import KeyKind

CAMPAIGN_ROWS = 20_000
LEADS = 1_000_003
BLOCK_ROWS = 10_000_000  # of so many rows each lead has ten emails; the next ones are to other leads
OBJECT_ROWS = (10_000, 50_000)  # the default chunk, and a larger one
FIRST_STAGED_CAMPAIGN = 1_000_000


@dataclass(frozen=True, slots=True)
class Scale:
    """How large and how long.

    Attributes:
        both: rows at which both sides are measured, rising.
        clickhouse_only: one more step, where filling PostgreSQL would take longer than the whole rest.
        seconds: for one side of one round of a write measurement.
        rounds: turns of each measurement.
    """

    both: tuple[int, ...]
    clickhouse_only: int
    seconds: float
    rounds: int
    query_seconds: float
    objects: int


SCALES = {
    "tiny": Scale((20_000,), 50_000, 0.3, 1, 0.1, 2),  # for the bench's own test
    "small": Scale((100_000, 1_000_000), 2_000_000, 1.0, 3, 0.6, 6),
    "medium": Scale((5_000_000,), 10_000_000, 2.0, 2, 0.8, 6),
    "full": Scale((1_000_000, 10_000_000), 50_000_000, 2.0, 3, 1.0, 10),
}

# The same email n in both dialects. Statuses by n % 200: 185 sent, 6 failed, 9 bounced.
DOMAINS = ("gmail.com", "outlook.com", "yahoo.com", "icloud.com", "gmx.de", "web.de", "proton.me")
PG_ROWS = f"""
insert into email (campaign_id, user_id, lead_id, email, subject, status, provider_message_id, error, sent_at,
    created_at, updated_at)
select
    n / {CAMPAIGN_ROWS}, n / {CAMPAIGN_ROWS} %% 40, lead,
    'first.last' || lead || '@' || (array{list(DOMAINS)})[lead %% 7 + 1],
    'News for you', case when n %% 200 < 185 then 'sent' when n %% 200 < 191 then 'failed' else 'bounced' end,
    '0100018f-' || md5(n::text), case when n %% 200 >= 185 then '550 5.1.1 user unknown' end,
    timestamptz '2025-01-01 00:00+00' + n * interval '0.5 second',
    timestamptz '2025-01-01 00:00+00' + n * interval '0.5 second',
    timestamptz '2025-01-01 00:00+00' + n * interval '0.5 second'
from generate_series(%(first)s::bigint, %(last)s::bigint - 1) as n
cross join lateral (select n / {BLOCK_ROWS} * {LEADS} + n * 7368787 %% {LEADS} as lead) as of_lead
"""


def clickhouse_rows(first: int, rows: int, campaign: str = f"intDiv(n, {CAMPAIGN_ROWS})") -> str:
    """A select of `DELIVERY_SCHEMA` for emails `first` and following."""
    domains = ", ".join(f"'{name}'" for name in DOMAINS)
    return f"""
        with number + {first} as n, intDiv(n, {BLOCK_ROWS}) * {LEADS} + n * 7368787 % {LEADS} as lead
        select
            toInt64({campaign}) as campaign_id, toInt64(lead) as lead_id,
            toString(reinterpretAsUUID(MD5(toString(n)))) as message_id, toInt64({campaign} % 40) as owner_id,
            toInt64(1) as sender_id, concat('first.last', toString(lead), '@', [{domains}][lead % 7 + 1]) as email,
            'ses' as provider, concat('0100018f-', lower(hex(MD5(toString(n))))) as provider_message_id,
            if(n % 200 < 185, 'accepted', 'rejected') as status,
            multiIf(n % 200 < 185, '', n % 200 < 191, 'failed', 'bounced') as error_code,
            if(n % 200 < 185, '', '550 5.1.1 user unknown') as error_message,
            toInt32(0) as chunk_index, toInt32(number / 50) as call_index,
            toString(reinterpretAsUUID(MD5(toString(intDiv(n, 50))))) as call_id,
            toDateTime64('2025-01-01 00:00:00', 3, 'UTC') + toIntervalMillisecond(n * 500) as occurred_at,
            toUInt64(4) * 281474976710656 + n as version
        from numbers({rows})
    """


def lead_of(number: int) -> int:
    """The lead of email `number`, as both engines compute it."""
    return number // BLOCK_ROWS * LEADS + number * 7_368_787 % LEADS


def values_of(number: int) -> Mapping[str, Any]:
    """What the questions may ask of email `number`."""
    lead, campaign = lead_of(number), number // CAMPAIGN_ROWS
    digest = md5(str(number).encode(), usedforsecurity=False)
    # `reinterpretAsUUID` reads both halves with the lowest byte first.
    halves = (int.from_bytes(part, "little") for part in (digest.digest()[:8], digest.digest()[8:]))
    return {
        "id": number + 1,
        "lead": lead,
        "campaign": campaign,
        "user": campaign % 40,
        "address": f"first.last{lead}@{DOMAINS[lead % 7]}",
        "provider_message_id": f"0100018f-{digest.hexdigest()}",
        "message_id": str(UUID(int=next(halves) << 64 | next(halves))),
    }


Kind = Literal["whole table", "some rows", "single key", "floor"]


@dataclass(frozen=True, slots=True)
class Query:
    """One report question in both dialects; what `values_of` gives is filled in.

    Attributes:
        kind: whether every row is read, those of a campaign or a user, or those of one key; ``floor`` asks nothing.
        new: SQL; or the kind of key by which the platform's own look-up finds the emails, `find_emails`.
        from_marts: the new side reads what dbt built, `{reports}`. The raw question of the same name is its pair.
    """

    name: str
    kind: Kind
    old: str
    new: str
    by: KeyKind | None = None
    from_marts: bool = False


# What a mart tells apart; here a bounce is a rejected delivery in the raw rows, as there are no events.
_OLD_TOTALS = "count(*) filter (where status = 'sent'), count(*) filter (where status in ('failed', 'bounced'))"
_OLD_STATUS = "case when status = 'sent' then 'sent' else 'rejected' end"
_OLD_EMAIL = "select campaign_id, status from email where {} order by campaign_id"
_OLD_EMAIL_STATUS = (
    "select campaign_id, case when status = 'sent' then 'sent' else 'failed' end from email where {} order by 1"
)

QUERIES = (
    Query("select 1", "floor", "select 1", "select 1"),
    Query(
        "campaign totals, all campaigns",
        "whole table",
        "select campaign_id, count(*) filter (where status = 'sent'), count(*) filter (where status = 'failed'), "
        "count(*) filter (where status = 'bounced') from email group by campaign_id order by campaign_id",
        "select campaign_id, countIf(status = 'accepted'), countIf(error_code = 'failed'), "
        "countIf(error_code = 'bounced') from delivery final group by campaign_id order by campaign_id",
    ),
    Query(
        "campaign totals, all campaigns (mart)",
        "whole table",
        f"select campaign_id, {_OLD_TOTALS} from email group by campaign_id order by campaign_id",
        "select campaign_id, accepted, rejected from {reports}.int_campaign_outcomes order by campaign_id",
        from_marts=True,
    ),
    Query(
        "bounces by domain",
        "whole table",
        "select split_part(email, '@', 2) as domain, count(*), count(*) filter (where status = 'bounced') from email "
        "group by domain order by domain",
        "select splitByChar('@', email)[2] as domain, count(), countIf(error_code = 'bounced') from delivery final "
        "group by domain order by domain",
    ),
    Query(
        "bounces by domain (mart)",
        "whole table",
        f"select split_part(email, '@', 2) as domain, {_OLD_TOTALS} from email group by domain order by domain",
        "select recipient_domain, sum(accepted), sum(rejected) from {reports}.domain_deliverability "
        "group by recipient_domain order by recipient_domain",
        from_marts=True,
    ),
    Query(
        "totals of one campaign",
        "some rows",
        "select count(*) filter (where status = 'sent'), count(*) filter (where status = 'failed'), "
        "count(*) filter (where status = 'bounced') from email where campaign_id = {campaign}",
        "select countIf(status = 'accepted'), countIf(error_code = 'failed'), countIf(error_code = 'bounced') "
        "from delivery final where campaign_id = {campaign}",
    ),
    Query(
        "totals of one campaign (mart)",
        "some rows",
        f"select {_OLD_TOTALS} from email where campaign_id = {{campaign}}",
        "select accepted, rejected from {reports}.int_campaign_outcomes where campaign_id = {campaign}",
        from_marts=True,
    ),
    Query(
        "leads by campaign by user",
        "some rows",
        "select count(*), count(distinct lead_id) from email where user_id = {user} and campaign_id = {campaign}",
        "select count(), uniqExact(lead_id) from delivery final where campaign_id = {campaign} and owner_id = {user}",
    ),
    Query(
        "a page of a campaign's leads",
        "some rows",
        f"select lead_id, email, {_OLD_STATUS} from email where user_id = {{user}} and campaign_id = {{campaign}} "
        "order by lead_id limit 100",
        "select lead_id, email, if(status = 'accepted', 'sent', 'rejected') from delivery final "
        "where campaign_id = {campaign} and owner_id = {user} order by lead_id limit 100",
    ),
    Query(
        "a page of a campaign's leads (mart)",
        "some rows",
        f"select lead_id, email, {_OLD_STATUS} from email where user_id = {{user}} and campaign_id = {{campaign}} "
        "order by lead_id limit 100",
        "select lead_id, email, toString(status) from {reports}.campaign_recipients "
        "where campaign_id = {campaign} and user_id = {user} order by lead_id limit 100",
        from_marts=True,
    ),
    Query(
        "a user's emails by day",
        "some rows",
        "select sent_at::date as day, count(*) from email where user_id = {user} group by day order by day",
        "select toDate(occurred_at) as day, count() from delivery final where owner_id = {user} "
        "group by day order by day",
    ),
    Query(
        "a user's emails by day (mart)",
        "some rows",
        "select sent_at::date as day, count(*) from email where user_id = {user} group by day order by day",
        "select activity_date, accepted + rejected from {reports}.sender_activity "
        "where user_id = {user} order by activity_date",
        from_marts=True,
    ),
    Query("a lead's emails", "single key", _OLD_EMAIL.format("lead_id = {lead}"), "{lead}", by="lead"),
    Query(
        "a lead's emails (mart)",
        "single key",
        f"select campaign_id, {_OLD_STATUS} from email where lead_id = {{lead}} order by campaign_id",
        "select campaign_id, toString(status) from {reports}.lead_history where lead_id = {lead} order by campaign_id",
        from_marts=True,
    ),
    Query(
        "an address's emails", "single key", _OLD_EMAIL.format("lower(email) = '{address}'"), "{address}", by="address"
    ),
    Query(
        "an address's emails (view)",
        "single key",
        _OLD_EMAIL_STATUS.format("lower(email) = '{address}'"),
        "select campaign_id, toString(status) from {reports}.email_of_address(address = '{address}') "
        "order by campaign_id",
        from_marts=True,
    ),
    Query(
        "the provider's message id",
        "single key",
        _OLD_EMAIL.format("provider_message_id = '{provider_message_id}'"),
        "{provider_message_id}",
        by="provider_message_id",
    ),
    Query("our message id", "single key", _OLD_EMAIL.format("id = {id}"), "{message_id}", by="message_id"),
)

OLD_COLUMNS = (
    "campaign_id, user_id, lead_id, email, subject, status, provider_message_id, error, sent_at, created_at, updated_at"
)


def old_values(number: int) -> tuple[Any, ...]:
    """One row for the old table."""
    lead = number % 1_000_003
    now = "2026-01-01 00:00:00+00"
    return (
        *(900_000 + number % 50, number % 40, lead, f"first.last{lead}@{DOMAINS[lead % 7]}", "News for you", "sent"),
        *(f"0100018f-{number:032x}", "", now, now, now),
    )


def old_insert(rows: int, ids: Iterator[int]) -> tuple[str, list[Any]]:
    """One insert of so many rows, and its parameters."""
    one = f"({', '.join(['%s'] * 11)})"
    values: list[Any] = []
    for _ in range(rows):
        values += old_values(next(ids))
    return f"insert into email ({OLD_COLUMNS}) values {', '.join([one] * rows)}", values
