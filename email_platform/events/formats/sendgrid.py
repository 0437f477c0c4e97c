"""SendGrid's Event Webhook: a JSON array of flat events.

Source: "Event Webhook Reference". ``sg_event_id`` is "a unique ID to this event that you can use for
deduplication purposes"; custom arguments (our ``message_id`` and ``campaign_id``) come back as top-level
fields. A bounce has ``type`` "bounce" (permanent) or "blocked" (the receiving server refuses for now:
counted soft); older payloads have no ``type``, then the SMTP status decides. ``sg_message_id`` is the
``x-message-id`` of the call's answer, followed by the route that the message took.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from email_platform.events.event import (
    Event,
    EventType,
    canonical_message_id,
    carried_campaign_id,
    derived_event_id,
)
from email_platform.events.formats.reading import (
    Notification,
    as_list,
    as_object,
    optional_text,
    text,
    time_from_epoch,
)

_ROUTE = re.compile(r"\.(?:filter|recvd|ismtpd)")
_TYPE_OF: Mapping[str, EventType] = {
    "processed": "accepted",
    "deferred": "delayed",
    "delivered": "delivered",
    "open": "opened",
    "click": "clicked",
    "bounce": "bounced",
    "dropped": "rejected",
    "spamreport": "complained",
    "unsubscribe": "unsubscribed",
    "group_unsubscribe": "unsubscribed",
    "group_resubscribe": "resubscribed",
}


def split(notification: Notification) -> Iterator[Any]:
    """The single events of the array."""
    yield from as_list(notification.document, "$")


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One event of the array."""
    document = as_object(item, "$[]")
    name = text(document, "event")
    kind = _TYPE_OF.get(name, "other")
    recipient = optional_text(document, "email") if kind == "other" else text(document, "email")
    occurred_at = time_from_epoch(document.get("timestamp"), "timestamp")
    provider_message_id = optional_text(document, "sg_message_id")
    event_id = optional_text(document, "sg_event_id") or derived_event_id(
        "sendgrid", name, provider_message_id or optional_text(document, "smtp-id"), recipient, occurred_at
    )
    yield notification.event(
        event_id=event_id,
        type=kind,
        subtype=_subtype(kind, name, document),
        recipient=recipient,
        occurred_at=occurred_at,
        campaign_id=carried_campaign_id(document.get("campaign_id")),
        message_id=canonical_message_id(document.get("message_id")),
        provider_message_id=_ROUTE.split(provider_message_id, maxsplit=1)[0],
        details={
            "reason": optional_text(document, "reason") or optional_text(document, "response"),
            "status": optional_text(document, "status"),
            "classification": optional_text(document, "bounce_classification"),
            "attempt": optional_text(document, "attempt"),
            "url": optional_text(document, "url"),
            "user_agent": optional_text(document, "useragent"),
            "group": optional_text(document, "asm_group_id"),
        },
    )


def _subtype(kind: EventType, name: str, document: Mapping[str, Any]) -> str:
    if kind == "bounced":
        bounce_type = optional_text(document, "type")
        if bounce_type:
            return "hard" if bounce_type == "bounce" else "soft"
        return "soft" if optional_text(document, "status").startswith("4") else "hard"
    if kind == "unsubscribed" and name == "group_unsubscribe":
        return "group"
    return name if kind == "other" else ""
