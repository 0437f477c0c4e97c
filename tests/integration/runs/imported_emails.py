"""The import of an old table, and what the warehouse has of it afterwards: for each engine that the table may be in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.old_systems import import_legacy_month
from email_platform.runs.legacy_import import ImportReport
from email_platform.runs.legacy_table import SOURCE_SCHEMA, Month
from email_platform.settings import Settings


@dataclass(frozen=True, slots=True)
class ImportedEmails:
    """An old table's settings, and a warehouse of one test's own."""

    settings: Settings
    warehouse: ClickHouseWarehouse

    def run(self, month: Month, **settings: Any) -> ImportReport:
        report = import_legacy_month(self.settings.model_copy(update=settings), month)
        assert report.differences() == []
        assert report.source_total.rows == report.warehouse_total.rows
        return report

    def new_rows(self) -> list[tuple[Any, ...]]:
        """Every column of every row, times as ClickHouse's text in UTC."""
        shown = [f"toString({name})" if name.endswith("_at") else name for name in SOURCE_SCHEMA.names]
        return list(
            self.warehouse.client.query(
                f"select {', '.join(shown)} from legacy_email final where is_deleted = 0 order by legacy_email.id"
            ).result_rows
        )
