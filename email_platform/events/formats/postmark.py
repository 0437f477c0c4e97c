"""Postmark's webhooks: one JSON object per event, told apart by ``RecordType``.

Sources: "Bounce webhook", "Spam complaint webhook", "Delivery webhook", "Open tracking webhook", "Click
webhook", "Subscription change webhook", and the bounce types of the "Bounce API". A bounce or complaint has
an ``ID``; the others have none, so theirs is derived. Our ids come back in ``Metadata``. The bounce's
``Inactive`` says that Postmark itself stopped sending to the address: with HardBounce, BadEmailAddress and
ManuallyDeactivated the address is dead; every other type is soft.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

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
    as_object,
    optional_object,
    optional_text,
    text,
    time_from_iso,
)

# RecordType -> (type, time's field, address's field).
_FIELDS_OF: Mapping[str, tuple[EventType, str, str]] = {
    "Bounce": ("bounced", "BouncedAt", "Email"),
    "SpamComplaint": ("complained", "BouncedAt", "Email"),
    "Delivery": ("delivered", "DeliveredAt", "Recipient"),
    "Open": ("opened", "ReceivedAt", "Recipient"),
    "Click": ("clicked", "ReceivedAt", "Recipient"),
    "SubscriptionChange": ("unsubscribed", "ChangedAt", "Recipient"),
}
_HARD = frozenset({"HardBounce", "BadEmailAddress", "ManuallyDeactivated"})
# Bounce types that are no bounce.
_TYPE_OF_BOUNCE: Mapping[str, EventType] = {
    "SpamComplaint": "complained",
    "Unsubscribe": "unsubscribed",
    "Subscribe": "resubscribed",
    "SMTPApiError": "rejected",
    "TemplateRenderingFailed": "rejected",
    "Transient": "delayed",
}


def split(notification: Notification) -> Iterator[Any]:
    """The body is one event."""
    yield notification.document


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One Postmark record."""
    document = as_object(item, "$")
    record_type = text(document, "RecordType")
    metadata = optional_object(document, "Metadata")
    kind, time_field, address_field = _FIELDS_OF.get(record_type, ("other", "ReceivedAt", "Recipient"))
    subtype = record_type if kind == "other" else ""
    bounce_type = optional_text(document, "Type")
    if kind == "bounced":
        kind = _TYPE_OF_BOUNCE.get(bounce_type, "bounced")
        subtype = "hard" if bounce_type in _HARD else "soft"
        if kind != "bounced":
            subtype = bounce_type
    elif kind == "unsubscribed":
        kind, subtype = _subscription_change(document)
    occurred_at = (
        notification.received_at
        if kind == "other" and time_field not in document
        else time_from_iso(document.get(time_field), time_field)
    )
    recipient = optional_text(document, address_field) if kind == "other" else text(document, address_field)
    message_id = optional_text(document, "MessageID")
    own_id = optional_text(document, "ID")
    link = optional_text(document, "OriginalLink")
    yield notification.event(
        event_id=f"{record_type}:{own_id}"
        if own_id
        else derived_event_id("postmark", record_type, message_id, recipient, document.get(time_field), link),
        type=kind,
        subtype=subtype,
        recipient=recipient,
        occurred_at=occurred_at,
        campaign_id=carried_campaign_id(metadata.get("campaign_id")),
        message_id=canonical_message_id(metadata.get("message_id")),
        provider_message_id=message_id,
        details={
            "bounce_type": bounce_type,
            "description": optional_text(document, "Description"),
            "reason": optional_text(document, "Details") or optional_text(document, "SuppressionReason"),
            "origin": optional_text(document, "Origin"),
            "url": link,
            "user_agent": optional_text(document, "UserAgent"),
        },
    )


def _subscription_change(document: Mapping[str, Any]) -> tuple[EventType, str]:
    """Postmark reports its own suppressions here too: with each hard bounce and complaint, or by hand."""
    if document.get("SuppressSending") is not True:
        return "resubscribed", ""
    reason = optional_text(document, "SuppressionReason")
    # The bounce or the complaint has its own webhook: counting it here too would count it twice.
    return ("unsubscribed", "") if reason in ("", "ManualSuppression") else ("other", f"suppressed:{reason}")
