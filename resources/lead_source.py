"""The leads' source as a resource, between the parts of the settings."""

from collections.abc import Callable

import dagster as dg

from email_platform.adapters.old_systems import sync_lead_slice, take_over_lead_changes
from email_platform.runs.lead_sync import ChangesReport, SliceReport
from resources.settings import SettingsResource


class LeadSourceResource(dg.ConfigurableResource["LeadSourceResource"]):
    """Keeps leads in step; every connection is opened for one run and closed after it."""

    settings: dg.ResourceDependency[SettingsResource]

    def sync_slice(self, slice_index: int, on_range: Callable[[int, int], None]) -> SliceReport:
        """See `email_platform.runs.lead_sync.sync_slice`."""
        return sync_lead_slice(self.settings.load(), slice_index, on_range)

    def take_over_changes(self) -> ChangesReport:
        """See `email_platform.runs.lead_sync.sync_changes`."""
        return take_over_lead_changes(self.settings.load())
