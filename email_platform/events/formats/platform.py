"""Events of our own unsubscribe page: ``{"event": "unsubscribed", "campaign_id", "lead_id", "sender_id", "at",
"addresses"}``.

A token holds ids alone; ``addresses`` are those that the page found for them, as they were mailed and of today.
The lead
and the sender travel as ``<lead>:<sender>`` in ``provider_message_id``. A body without addresses (an older page, or one
that could not ask) is looked up when it is staged (`email_platform.events.inbox`).

Invariant: as in `email_platform.events.normalising`; one message has at most one such event for each address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from email_platform.domain.identity import message_id
from email_platform.errors import MalformedEventError
from email_platform.events.event import Event
from email_platform.events.formats.reading import Notification, as_list, as_object, time_from_iso


def unsubscribed_body(
    campaign_id: int, lead_id: int, sender_id: int, at: datetime, addresses: Sequence[str] = ()
) -> bytes:
    """What the page keeps of one unsubscription."""
    return orjson.dumps(
        {
            "event": "unsubscribed",
            "campaign_id": campaign_id,
            "lead_id": lead_id,
            "sender_id": sender_id,
            "at": at.isoformat(),
            "addresses": list(addresses),
        }
    )


def split(notification: Notification) -> Iterator[Any]:
    """The body is one event."""
    yield notification.document


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One event for each address, or one without."""
    document = as_object(item, "$")
    campaign_id, lead_id, sender_id = (_id(document, name) for name in ("campaign_id", "lead_id", "sender_id"))
    ours = str(message_id(campaign_id, lead_id))
    addresses = as_list(document.get("addresses") or [""], "addresses")
    for index, address in enumerate(addresses):
        if not isinstance(address, str):
            raise MalformedEventError("addresses must hold texts")
        yield notification.event(
            event_id=f"unsubscribed:{ours}" + (f":{index}" if index else ""),
            type="unsubscribed",
            subtype="one_click",
            recipient=address,
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
