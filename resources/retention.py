"""What the platform removes, as a resource: the OLTP database, the bucket and Dagster's own records."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from email_platform.adapters.assembly import open_erasure, open_retention, open_store
from email_platform.adapters.dagster_history import DagsterRunHistory
from email_platform.runs.erasure_parts import EraseParts
from email_platform.runs.retention import RetentionParts
from resources.settings import SettingsResource


class RetentionResource(dg.ConfigurableResource["RetentionResource"]):
    """Opens `email_platform.runs.retention.RetentionParts` for one run, with the lease of the work."""

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def open(self, instance: dg.DagsterInstance) -> Iterator[RetentionParts]:
        """Connect; connections are closed and the lease is given back on leaving."""
        settings = self.settings.load()
        with open_retention(settings, DagsterRunHistory(instance, open_store(settings))) as parts:
            yield parts


class ErasureResource(dg.ConfigurableResource["ErasureResource"]):
    """Opens `email_platform.runs.erasure_parts.EraseParts` for one run, with the lease of the work."""

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def open(self) -> Iterator[EraseParts]:
        """Connect; connections are closed and the lease is given back on leaving."""
        with open_erasure(self.settings.load()) as parts:
            yield parts
