"""The campaign's outside world as a resource: PostgreSQL, the bucket and the provider accounts, from the settings."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from email_platform.adapters.assembly import open_parts
from email_platform.runs.parts import Parts
from resources.settings import SettingsResource


class PartsResource(dg.ConfigurableResource["PartsResource"]):
    """Opens `email_platform.runs.parts.Parts` for one step or one tick."""

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def open(self) -> Iterator[Parts]:
        """Connect lazily; connections are closed on leaving."""
        with open_parts(self.settings.load()) as parts:
            yield parts
