"""Single emails in the raw tables: by lead, by address, by the provider's message id, by campaign and lead.

Leads that a campaign left out are found as well, with the reason; a provider never had an id for them.

Invariant: a lookup returns the current state, however often and in whatever order it was loaded, with every event that
carries its message id. Reports show the same after their next refresh, plus the few events that must be matched by
something else. Filters on the columns keep the reads to a few granules (migration 0027).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.domain.found_email import EmailEvent, FoundEmail

LookupBy = Literal["lead", "address", "provider_message_id"]

# Written in the same form as the filters: any other form of a condition reads every row.
CONDITIONS: dict[LookupBy, str] = {
    "lead": "lead_id = {wanted:Int64}",
    "address": "lower(email) = lower({wanted:String})",
    "provider_message_id": "provider_message_id = {wanted:String}",
}
_OF_ONE_LEAD = 100  # the old system may have mailed a lead several times for one campaign


def find_emails(warehouse: ClickHouseWarehouse, by: LookupBy, wanted: int | str, limit: int) -> list[FoundEmail]:
    """The newest emails, newest first, at most `limit`.

    Raises:
        ConfigurationError, PartUnavailableError: ClickHouse refuses or does not answer.
    """
    return _emails(warehouse, CONDITIONS[by], {"wanted": wanted}, limit, excluded_too=by != "provider_message_id")


class ClickHouseEmailLookup:
    """`email_platform.domain.found_email.EmailLookup` over the raw tables."""

    def __init__(self, warehouse: ClickHouseWarehouse) -> None:
        self._warehouse = warehouse

    def of_campaign_and_lead(self, campaign_id: int, lead_id: int) -> Sequence[FoundEmail]:
        """See the Protocol; a range of each table's key."""
        wanted = {"campaign": campaign_id, "lead": lead_id}
        condition = "campaign_id = {campaign:Int64} and lead_id = {lead:Int64}"
        return _emails(self._warehouse, condition, wanted, _OF_ONE_LEAD, excluded_too=True)

    def of_address(self, address: str, limit: int) -> Sequence[FoundEmail]:
        """See the Protocol."""
        return find_emails(self._warehouse, "address", address, limit)


def _emails(
    warehouse: ClickHouseWarehouse, condition: str, wanted: Mapping[str, object], limit: int, *, excluded_too: bool
) -> list[FoundEmail]:
    excluded = f"""
            union all
            select
                campaign_id, lead_id, ifNull(email, ''), 'excluded', toString(reason), '', '', loaded_at, 0, ''
            from exclusion final
            where {condition}"""  # noqa: S608 - conditions are constants
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
            where is_deleted = 0 and {condition}{excluded if excluded_too else ""}
        )
        order by happened_at desc, campaign_id desc, lead_id
        limit {{rows:UInt32}}
        """,  # noqa: S608 - conditions are constants
        {**wanted, "rows": limit},
    )
    events = _events(warehouse, [(row[0], row[9]) for row in rows if row[9]])
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
