"""The parts that the demo watches while it waits, and counts from at the end."""

from __future__ import annotations

from dataclasses import dataclass

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.local.demo.leads import DemoCampaign
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.runs.parts import Parts


@dataclass(frozen=True, slots=True)
class DemoWatch:
    """Some campaigns of the demo, and where their traces are.

    Attributes:
        reports: the database of the marts.
        log: the provider simulator's own; None with a real provider.
    """

    parts: Parts
    warehouse: ClickHouseWarehouse
    reports: str
    campaigns: tuple[DemoCampaign, ...]
    log: AcceptedLog | None

    @property
    def ids(self) -> list[int]:
        """The campaigns' ids."""
        return [campaign.campaign_id for campaign in self.campaigns]
