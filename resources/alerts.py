"""The alerts' outside world as a resource: outbox, targets and limits, from the settings."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import dagster as dg

from email_platform.adapters.assembly import open_alerts, open_warehouse
from email_platform.adapters.clickhouse.client import READER_TIMEOUT_SECONDS
from email_platform.alerting.watch import AlertParts, Finding, LookReport, look, part_finding
from resources.settings import SettingsResource


class AlertsResource(dg.ConfigurableResource["AlertsResource"]):
    """Opens `email_platform.alerting.watch.AlertParts` for one tick."""

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def open(self) -> Iterator[AlertParts]:
        """Connect lazily; connections are closed on leaving."""
        with open_alerts(self.settings.load()) as parts:
            yield parts

    def look(self, parts: AlertParts, findings: Sequence[Finding]) -> LookReport:
        """One look of the host ``dagster``."""
        return look(parts, "dagster", findings)

    def warehouse_finding(self) -> Finding:
        """Whether ClickHouse answers and takes our credential."""

        def ask() -> None:
            with open_warehouse(self.settings.load(), READER_TIMEOUT_SECONDS):
                pass  # connecting asks the server who we are

        return part_finding("ClickHouse", ask)
