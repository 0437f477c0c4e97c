"""Single emails in the raw tables: by lead, address, provider's message id, our message id, or campaign and lead.

Leads that a campaign left out are found as well, with the reason; they have no message id.

Invariant: a lookup returns the current state, however often and in whatever order it was loaded, with every event that
carries its message id. Reports show the same after their next refresh, plus the few events that must be matched by
something else.

A key's candidates come from `key_index`; each is read from its raw table by the table's own key, with final, and
compared. So a lookup costs what its answer is large, not what the tables are.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from email_platform.adapters.clickhouse.key_index import (
    CONDITIONS,
    KEYS,
    KeyKind,
    candidates,
    few_candidates,
    filled_to,
)
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.domain.found_email import EmailEvent, FoundEmail

LookupBy = KeyKind

_ASK_AGAIN_SECONDS = 60.0
_OF_ONE_LEAD = 100  # the old system may have mailed a lead several times for one campaign


def find_emails(warehouse: ClickHouseWarehouse, by: LookupBy, wanted: int | str, limit: int) -> list[FoundEmail]:
    """The newest emails, newest first, at most `limit`.

    Raises:
        ConfigurationError, PartUnavailableError: ClickHouse refuses or does not answer.
    """
    return _found(warehouse, by, wanted, limit, filled_to(warehouse))


class ClickHouseEmailLookup:
    """`email_platform.domain.found_email.EmailLookup` over the raw tables."""

    def __init__(self, warehouse: ClickHouseWarehouse, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._warehouse = warehouse
        self._monotonic = monotonic
        self._filled_to: tuple[datetime, float] | None = None

    def of_campaign_and_lead(self, campaign_id: int, lead_id: int) -> Sequence[FoundEmail]:
        """See the Protocol; a range of each table's key."""
        wanted = {"campaign": campaign_id, "lead": lead_id}
        condition = "campaign_id = {campaign:Int64} and lead_id = {lead:Int64}"
        return _emails(self._warehouse, dict.fromkeys(KEYS, condition), wanted, _OF_ONE_LEAD)

    def of_address(self, address: str, limit: int) -> Sequence[FoundEmail]:
        """See the Protocol."""
        # An older answer stays right: what was loaded since is read from the raw tables.
        now = self._monotonic()
        if self._filled_to is None or now - self._filled_to[1] > _ASK_AGAIN_SECONDS:
            self._filled_to = filled_to(self._warehouse), now
        return _found(self._warehouse, "address", address, limit, self._filled_to[0])


def _found(
    warehouse: ClickHouseWarehouse, by: LookupBy, wanted: int | str, limit: int, since: datetime
) -> list[FoundEmail]:
    tables = [table for table, kinds in KEYS.items() if by in kinds]
    # One table is asked in one statement (10 M rows: 8.6 ms, in two 12.7); of several, only those with candidates.
    few = few_candidates(warehouse, by, wanted, since) if len(tables) > 1 else None
    if few is None:
        rows = {table: candidates(by, table, since) for table in tables}
    else:
        rows = {table: ", ".join(map(str, sorted(keys))) for table, keys in few.items()}
    conditions = {
        table: f"(campaign_id, lead_id) global in ({some}) and {CONDITIONS[by]}" for table, some in rows.items()
    }
    return _emails(warehouse, conditions, {"wanted": wanted}, limit) if conditions else []


# Of each raw table, in one order of columns.
_SELECTED = {
    "delivery": """
            select
                campaign_id, lead_id, email, toString(status),
                concat(error_code, if(error_code != '' and error_message != '', ': ', ''), error_message),
                toString(provider), provider_message_id, occurred_at as happened_at, 0, toString(message_id)
            from delivery final
            where """,
    "legacy_email": """
            select
                campaign_id, lead_id, email, toString(status), ifNull(error, ''),
                'old_system', ifNull(provider_message_id, ''),
                toDateTime64(ifNull(sent_at, updated_at), 3, 'UTC') as happened_at, 1, ''
            from legacy_email final
            where is_deleted = 0 and """,
    "exclusion": """
            select
                campaign_id, lead_id, ifNull(email, ''), 'excluded', toString(reason), '', '',
                loaded_at as happened_at, 0, ''
            from exclusion final
            where """,
}
# Rows are found by the tables' own keys: the filters would be read for nothing, and a second thread takes longer to
# start than the few granules to read (10 emails of 10 M: 10.5 ms with one, 20.5 with two on a busy machine).
_SETTINGS = "settings use_skip_indexes_if_final = 0, max_threads = 1"


def _emails(
    warehouse: ClickHouseWarehouse, conditions: Mapping[str, str], wanted: Mapping[str, object], limit: int
) -> list[FoundEmail]:
    """Those that meet the condition of their table, with their events."""
    found = "\n            union all".join(f"{_SELECTED[table]}{condition}" for table, condition in conditions.items())
    rows = warehouse.query(
        f"""
        select *
        from ({found}
        )
        order by happened_at desc, campaign_id desc, lead_id
        limit {{rows:UInt32}}
        {_SETTINGS}
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
