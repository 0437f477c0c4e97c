"""Events of our own unsubscribe page: ``{"event": "unsubscribed", "campaign_id", "lead_id", "sender_id", "at"}``.

The page knows no address (a token holds ids alone); the lead and the sender travel as ``<lead>:<sender>`` in
``provider_message_id``, and the address is looked up when the suppression is written.

Invariant: as in `email_platform.events.normalising`; one message has at most one such event.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

import orjson

from email_platform.domain.identity import message_id
from email_platform.errors import MalformedEventError
from email_platform.events.event import Event
from email_platform.events.formats.reading import Notification, as_object, time_from_iso


def unsubscribed_body(campaign_id: int, lead_id: int, sender_id: int, at: datetime) -> bytes:
    """What the page keeps of one unsubscription."""
    return orjson.dumps(
        {
            "event": "unsubscribed",
            "campaign_id": campaign_id,
            "lead_id": lead_id,
            "sender_id": sender_id,
            "at": at.isoformat(),
        }
    )


def split(notification: Notification) -> Iterator[Any]:
    """The body is one event."""
    yield notification.document


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """The one event."""
    document = as_object(item, "$")
    campaign_id, lead_id, sender_id = (_id(document, name) for name in ("campaign_id", "lead_id", "sender_id"))
    ours = str(message_id(campaign_id, lead_id))
    yield notification.event(
        event_id=f"unsubscribed:{ours}",
        type="unsubscribed",
        subtype="one_click",
        recipient="",
        occurred_at=time_from_iso(document.get("at"), "at"),
        campaign_id=campaign_id,
        message_id=ours,
        provider_message_id=f"{lead_id}:{sender_id}",
    )


def _id(document: Mapping[str, Any], name: str) -> int:
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 63:
        raise MalformedEventError(f"{name} must be an id")
    return value
