"""Single emails in the raw tables: by lead, by address, by the provider's message id.

Invariant: a lookup returns the current state, however often and in whatever order it was loaded, with every event that
carries its message id. Reports show the same after their next refresh, plus the few events that must be matched by
something else. Filters on the columns keep the reads to a few granules (migration 0027).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse

LookupBy = Literal["lead", "address", "provider_message_id"]

# Written in the same form as the filters: any other form of a condition reads every row.
CONDITIONS: dict[LookupBy, str] = {
    "lead": "lead_id = {wanted:Int64}",
    "address": "lower(email) = lower({wanted:String})",
    "provider_message_id": "provider_message_id = {wanted:String}",
}


@dataclass(frozen=True, slots=True)
class EmailEvent:
    """One event that a provider reported about an email."""

    type: str
    subtype: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class FoundEmail:
    """One email: of this platform, or of the old system's imported table.

    Attributes:
        status: of a delivery (accepted, rejected, unknown, abandoned), or the old table's own word.
        error: the provider's code and message; empty without any.
        occurred_at: when the provider answered; of an old email when it was sent, or last changed where it was not.
        is_old: from the old system's table.
        events: oldest first; none of old emails.
    """

    campaign_id: int
    lead_id: int
    email: str
    status: str
    error: str
    provider: str
    provider_message_id: str
    occurred_at: datetime
    is_old: bool
    events: tuple[EmailEvent, ...] = ()


def find_emails(warehouse: ClickHouseWarehouse, by: LookupBy, wanted: int | str, limit: int) -> list[FoundEmail]:
    """The newest emails, newest first, at most `limit`.

    Raises:
        ConfigurationError, PartUnavailableError: ClickHouse refuses or does not answer.
    """
    condition = CONDITIONS[by]
    rows = warehouse.query(
        f"""
        select *
        from (
            select
                campaign_id, lead_id, email, toString(status),
                concat(error_code, if(error_code != '' and error_message != '', ': ', ''), error_message),
                toString(provider), provider_message_id, occurred_at as happened_at, 0, toString(message_id)
            from delivery final
            where {condition}
            union all
            select
                campaign_id, lead_id, email, toString(status), ifNull(error, ''),
                'old_system', ifNull(provider_message_id, ''), toDateTime64(ifNull(sent_at, updated_at), 3, 'UTC'),
                1, ''
            from legacy_email final
            where is_deleted = 0 and {condition}
        )
        order by happened_at desc, campaign_id desc, lead_id
        limit {{rows:UInt32}}
        """,  # noqa: S608 - conditions are constants
        {"wanted": wanted, "rows": limit},
    )
    events = _events(warehouse, [(row[0], row[9]) for row in rows if not row[8]])
    return [
        FoundEmail(
            campaign_id, lead_id, email, status, error, provider, its_id, at, bool(is_old), tuple(events[message_id])
        )
        for campaign_id, lead_id, email, status, error, provider, its_id, at, is_old, message_id in rows
    ]


def _events(warehouse: ClickHouseWarehouse, messages: Sequence[tuple[int, str]]) -> dict[str, list[EmailEvent]]:
    """By message id, the newest reading of each event that carries it: ranges of the table's key.

    Args:
        warehouse: to query.
        messages: campaign and message id; a provider's event may lack the campaign, which is then 0.
    """
    events: dict[str, list[EmailEvent]] = defaultdict(list)
    if not messages:
        return events
    rows = warehouse.query(
        """
        select message_id, toString(type), toString(subtype), occurred_at
        from event
        where campaign_id in {campaigns:Array(Int64)} and message_id in {messages:Array(String)}
        order by event_key, normaliser_version desc
        limit 1 by event_key
        """,
        {
            "campaigns": sorted({0, *(campaign for campaign, _ in messages)}),
            "messages": [message for _, message in messages],
        },
    )
    for message_id, kind, subtype, occurred_at in sorted(rows, key=lambda row: row[3]):
        events[message_id].append(EmailEvent(kind, subtype, occurred_at))
    return events
