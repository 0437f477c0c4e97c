"""Pages of one campaign's reports, for readers outside the warehouse.

Invariant: a page is a range of the key (campaign, lead), so its cost does not grow with the pages before it; and an
export is such pages, one after the other, in constant memory.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from email_platform.adapters.clickhouse.address import reports_database
from email_platform.adapters.clickhouse.client import READER_TIMEOUT_SECONDS
from email_platform.adapters.clickhouse.report_frames import read_campaign
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.errors import CommandRefusedError
from email_platform.reporting.frames import CampaignFrames
from email_platform.settings import Settings

EXPORT_PAGE_ROWS = 10_000
RECIPIENT_COLUMNS = (
    "lead_id",
    "email",
    "status",
    "outcome",
    "error",
    "provider_message_id",
    "occurred_at",
    "status_at",
    "delivered_at",
    "opened_at",
    "clicked_at",
    "bounced_at",
    "complained_at",
    "unsubscribed_at",
)
"""Of the mart `campaign_recipients`; `occurred_at` is when the outcome of its call was known."""
_IS_THERE = "select count() from system.tables where database = {database:String} and name = {name:String}"


class ReportsNotBuiltError(CommandRefusedError):
    """The reports' tables are made with the first load, and there was none yet."""


class ReportReader:
    """Reads the marts; connects at the first question, and may be used by several threads at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._database = reports_database(settings.clickhouse_url.get_secret_value())
        self._connecting = threading.Lock()
        self._warehouse: ClickHouseWarehouse | None = None

    def recipients(
        self, campaign_id: int, after_lead_id: int, limit: int, status: str | None
    ) -> Sequence[Mapping[str, Any]]:
        """A page of the campaign's recipients, by lead id.

        Args:
            campaign_id: which campaign.
            after_lead_id: only those with a greater id.
            limit: at most so many.
            status: only those with this status, as `campaign_recipients` has it.

        Raises:
            ReportsNotBuiltError: there is no report yet.
            ConfigurationError, PartUnavailableError: ClickHouse refuses or does not answer.
        """
        rows = self._query(
            "campaign_recipients",
            f"""
            select {", ".join(RECIPIENT_COLUMNS)}
            from {self._database}.campaign_recipients
            where
                campaign_id = {{campaign:Int64}} and lead_id > {{after:Int64}}
                and ({{status:String}} = '' or status = {{status:String}})
            order by lead_id
            limit {{rows:UInt32}}
            """,  # noqa: S608 - names of ours
            {"campaign": campaign_id, "after": after_lead_id, "status": status or "", "rows": limit},
        )
        return [dict(zip(RECIPIENT_COLUMNS, row, strict=True)) for row in rows]

    def all_recipients(self, campaign_id: int) -> Iterator[Mapping[str, Any]]:
        """Every recipient of the campaign, by lead id; page after page, each as it is when it is read."""
        after = -1
        while page := self.recipients(campaign_id, after, EXPORT_PAGE_ROWS, None):
            yield from page
            after = page[-1]["lead_id"]

    def campaign(self, campaign_id: int) -> CampaignFrames:
        """What the campaign's report is drawn from; see `read_campaign`.

        Raises:
            CommandRefusedError: the reports have no such campaign, or there is no report yet.
            ConfigurationError, PartUnavailableError: ClickHouse refuses or does not answer.
        """
        self._require("campaign_summary")
        return read_campaign(self._connected(), campaign_id)

    def close(self) -> None:
        """Close the connection, where there is one."""
        if self._warehouse is not None:
            self._warehouse.close()

    def _query(self, mart: str, statement: str, parameters: Mapping[str, Any]) -> Sequence[Sequence[Any]]:
        self._require(mart)
        return self._connected().query(statement, parameters)

    def _require(self, mart: str) -> None:
        ((is_there,),) = self._connected().query(_IS_THERE, {"database": self._database, "name": mart})
        if not is_there:
            raise ReportsNotBuiltError("there is no report yet: the first one is made after the first campaign is sent")

    def _connected(self) -> ClickHouseWarehouse:
        with self._connecting:
            if self._warehouse is None:
                self._warehouse = ClickHouseWarehouse.from_settings(self._settings, READER_TIMEOUT_SECONDS)
            return self._warehouse
