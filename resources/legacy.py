"""The old email table's import as a resource, between the parts of the settings."""

from collections.abc import Callable

import dagster as dg

from email_platform.adapters.old_systems import import_legacy_month
from email_platform.runs.legacy_import import ImportReport
from email_platform.runs.legacy_table import Month
from resources.settings import SettingsResource


class LegacyImportResource(dg.ConfigurableResource["LegacyImportResource"]):
    """Imports one month; every connection is opened for it and closed after it."""

    settings: dg.ResourceDependency[SettingsResource]

    def import_month(self, month: Month, on_range: Callable[[int, int, int], None]) -> ImportReport:
        """See `email_platform.runs.legacy_import.import_month`."""
        return import_legacy_month(self.settings.load(), month, on_range)
