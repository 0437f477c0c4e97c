"""What providers tell about messages after they took them: proved, kept, normalised, idempotent.

Invariant: no event that a provider was thanked for is lost, and none counts twice.
"""

from email_platform.events.event import EVENT_SCHEMA, EVENT_TYPES, Event, EventType, event_table, status_rank
from email_platform.events.normalising import NormalisedBody, normalise_body
from email_platform.events.received import RECEIVED_SCHEMA, ReceivedBody

__all__ = [
    "EVENT_SCHEMA",
    "EVENT_TYPES",
    "RECEIVED_SCHEMA",
    "Event",
    "EventType",
    "NormalisedBody",
    "ReceivedBody",
    "event_table",
    "normalise_body",
    "status_rank",
]
