"""The events' outside world as a resource: the bucket with its inbox, and PostgreSQL, from the settings."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from email_platform.adapters.assembly import open_oltp, open_store, utc_now
from email_platform.adapters.postgres.events import PostgresEventIntake
from email_platform.events.staging import EventIntake
from email_platform.ports import Clock, ObjectStore
from resources.settings import SettingsResource


@dataclass(frozen=True, slots=True)
class EventParts:
    """What staging events needs."""

    store: ObjectStore
    intake: EventIntake
    clock: Clock


class EventsResource(dg.ConfigurableResource["EventsResource"]):
    """Opens `EventParts` for one step or one tick."""

    settings: dg.ResourceDependency[SettingsResource]

    @contextmanager
    def open(self) -> Iterator[EventParts]:
        """Connect lazily; connections are closed on leaving."""
        settings = self.settings.load()
        with open_oltp(settings) as engine:
            yield EventParts(open_store(settings), PostgresEventIntake(engine), utc_now)
