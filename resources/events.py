"""The events' outside world as a resource: inbox, PostgreSQL, limits and alerts, from the settings."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from email_platform.adapters.assembly import open_events
from email_platform.runs.events import EventParts
from resources.settings import SettingsResource


class EventsResource(dg.ConfigurableResource["EventsResource"]):
    """Opens `email_platform.runs.events.EventParts` for one step or one tick."""

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def open(self) -> Iterator[EventParts]:
        """Connect lazily; connections are closed on leaving."""
        with open_events(self.settings.load()) as events:
            yield events
