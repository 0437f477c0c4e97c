"""The parts that the demo watches while it waits, and counts from at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.local.demo.leads import DemoCampaign
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.runs.parts import Parts, find_manifest


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

    def frozen(self, campaign_id: int, key_of: Callable[[str], str], columns: list[str]) -> pa.Table:
        """Columns of one of the frozen audience's objects, whole; `key_of` gives its key by the manifest's prefix."""
        with self.parts.store.reader(key_of(find_manifest(self.parts, campaign_id).prefix)) as reader:
            return pq.read_table(reader, columns=columns)
