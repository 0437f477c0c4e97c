"""Events of the embedded provider simulator: ``{"events": [...]}``, each with its own id.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from email_platform.errors import MalformedEventError
from email_platform.events.event import (
    EVENT_TYPES,
    BounceSubtype,
    Event,
    EventType,
    canonical_message_id,
    carried_campaign_id,
)
from email_platform.events.formats.reading import (
    Notification,
    as_list,
    as_object,
    optional_text,
    text,
    time_from_iso,
)


def split(notification: Notification) -> Iterator[Any]:
    """The single events of the body."""
    yield from as_list(as_object(notification.document, "$").get("events"), "events")


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One event of the simulator; see `email_platform.local.provider_simulator.webhook_outbox.events_body`."""
    document = as_object(item, "events[]")
    kind = text(document, "type")
    known: EventType = next((known for known in EVENT_TYPES if known == kind), "other")
    subtype = optional_text(document, "subtype")
    if known == "bounced" and subtype not in get_args(BounceSubtype):
        raise MalformedEventError("subtype of a bounce must be hard or soft")
    yield notification.event(
        event_id=text(document, "event_id"),
        type=known,
        subtype=kind if known == "other" else subtype,
        recipient=text(document, "recipient"),
        occurred_at=time_from_iso(document.get("occurred_at"), "occurred_at"),
        campaign_id=carried_campaign_id(document.get("campaign")),
        message_id=canonical_message_id(document.get("message_id")),
        provider_message_id=optional_text(document, "provider_message_id"),
        details={"detail": optional_text(document, "detail")},
    )
