"""The warehouse as a resource: ClickHouse for bulk loads and counts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dagster as dg

from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from resources.settings import SettingsResource

if TYPE_CHECKING:
    from email_platform.adapters.report_pages import KeptPage


class WarehouseResource(dg.ConfigurableResource["WarehouseResource"]):
    """Opens the ClickHouse warehouse for one step or one tick."""

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def open(self) -> Iterator[ClickHouseWarehouse]:
        """Connect; the connection is closed on leaving."""
        with open_warehouse(self.settings.load()) as warehouse:
            yield warehouse

    def keep_page(self, warehouse: ClickHouseWarehouse, campaign_id: int) -> "KeptPage":
        """Write a campaign's report page into the bucket."""
        from email_platform.adapters.report_pages import keep_campaign_page  # draws: slow to import

        return keep_campaign_page(self.settings.load(), warehouse, campaign_id)


def outcome_picture(figures: Mapping[str, int | str]) -> dg.MetadataValue:
    """A campaign's outcome as a small picture; of its figures in the report `campaign_summary`."""
    from email_platform.reporting import outcome_picture  # draws: slow to import

    counts = {name: figure for name, figure in figures.items() if isinstance(figure, int)}
    return dg.MetadataValue.md(outcome_picture.outcome_picture(counts))
