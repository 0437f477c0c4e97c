"""Mailgun's webhooks: ``{"signature": {...}, "event-data": {...}}``.

Sources: "Webhook Payloads" and "Events" (Event structure). ``event-data.id`` is unique within a day and
account and repeats with a retry; together with the event's name it is the id. A failure is ``severity``
"permanent" or "temporary"; a temporary one is tried again by Mailgun (so it is a delay, with the reason), and
a permanent one with ``reason`` "suppress-bounce", "suppress-unsubscribe" or "suppress-complaint" was never
tried. Our ids come back in ``user-variables``.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from email_platform.events.event import Event, EventType, canonical_message_id, carried_campaign_id
from email_platform.events.formats.reading import (
    Notification,
    as_object,
    optional_object,
    optional_text,
    text,
    time_from_epoch,
)

_TYPE_OF: Mapping[str, EventType] = {
    "accepted": "accepted",
    "delivered": "delivered",
    "opened": "opened",
    "clicked": "clicked",
    "unsubscribed": "unsubscribed",
    "complained": "complained",
    "rejected": "rejected",
    "failed": "bounced",
}


def split(notification: Notification) -> Iterator[Any]:
    """The event of the body."""
    yield as_object(notification.document, "$").get("event-data")


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One Mailgun event."""
    document = as_object(item, "event-data")
    name = text(document, "event")
    kind = _TYPE_OF.get(name, "other")
    reason = optional_text(document, "reason")
    subtype = name if kind == "other" else ""
    if kind == "bounced":
        kind, subtype = _failure(optional_text(document, "severity"), reason)
    status = optional_object(document, "delivery-status")
    variables = optional_object(document, "user-variables")
    client = optional_object(document, "client-info")
    headers = optional_object(optional_object(document, "message"), "headers")
    yield notification.event(
        event_id=f"{name}:{text(document, 'id')}",
        type=kind,
        subtype=subtype,
        recipient=optional_text(document, "recipient") if kind == "other" else text(document, "recipient"),
        occurred_at=time_from_epoch(document.get("timestamp"), "timestamp"),
        campaign_id=carried_campaign_id(variables.get("campaign_id")),
        message_id=canonical_message_id(variables.get("message_id")),
        provider_message_id=_bracketed(optional_text(headers, "message-id")),
        details={
            "reason": reason,
            "code": optional_text(status, "code"),
            "enhanced_code": optional_text(status, "enhanced-code"),
            "message": optional_text(status, "message") or optional_text(status, "description"),
            "url": optional_text(document, "url"),
            "user_agent": optional_text(client, "user-agent"),
        },
    )


def _failure(severity: str, reason: str) -> tuple[EventType, str]:
    if severity == "temporary":
        return "delayed", "temporary"
    if reason.startswith("suppress-"):
        return "rejected", reason
    # "old": Mailgun gave up after trying for too long; the address may be good.
    return "bounced", "soft" if reason == "old" else "hard"


def _bracketed(message_id: str) -> str:
    """As the call's answer gives it, ``<id@domain>``; webhooks leave the brackets out."""
    return f"<{message_id.strip('<>')}>" if message_id else ""
