"""Amazon SES events and feedback notifications, in an SNS envelope or as the bare SES record.

Sources: "Contents of event data that Amazon SES publishes to Amazon SNS" (``eventType``, configuration sets)
and "Amazon SNS notification contents for Amazon SES" (``notificationType``, feedback of an identity).

SES gives no event id. A bounce or complaint has a ``feedbackId``, "a unique ID for the bounce"; one
notification may name several recipients, so the id is derived from it and the recipient. Our ids come back as
``mail.tags`` where the events are published through a configuration set; feedback notifications of an
identity carry no tags and are joined by ``mail.messageId``.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from email_platform.errors import MalformedEventError
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
    optional_object,
    optional_text,
    parse_json,
    text,
    time_from_iso,
)

# The object that describes each event. "Subscription" has its object under the same name.
_OBJECT_OF: Mapping[str, tuple[EventType, str]] = {
    "Bounce": ("bounced", "bounce"),
    "Complaint": ("complained", "complaint"),
    "Delivery": ("delivered", "delivery"),
    "Send": ("accepted", "send"),
    "Reject": ("rejected", "reject"),
    "Open": ("opened", "open"),
    "Click": ("clicked", "click"),
    "Rendering Failure": ("rejected", "failure"),
    "DeliveryDelay": ("delayed", "deliveryDelay"),
    "Subscription": ("unsubscribed", "subscription"),
}
# "AmazonSnsSubscriptionSucceeded" is a plain text that SES publishes once when a topic is set.
_NOTICES = ("Successfully validated SNS topic for Amazon SES",)


def split(notification: Notification) -> Iterator[Any]:
    """The SES record inside the SNS envelope; nothing for a notice that is no event."""
    envelope = as_object(notification.document, "$")
    if envelope.get("Type") not in (None, "Notification"):
        return
    if "Message" not in envelope:
        yield envelope
        return
    message = text(envelope, "Message")
    if not message.startswith(_NOTICES):
        yield parse_json(message)


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One event per recipient of the record."""
    record = as_object(item, "Message")
    name = optional_text(record, "eventType") or text(record, "notificationType")
    mail = as_object(record.get("mail"), "mail")
    kind, object_name = _OBJECT_OF.get(name, ("other", name))
    described = optional_object(record, object_name)
    at = described.get("timestamp") or mail.get("timestamp")
    occurred_at = time_from_iso(at, f"{object_name}.timestamp")
    subtype = name if kind == "other" else ""
    if kind == "bounced":
        subtype = _bounce_subtype(text(described, "bounceType", "bounce."))
    elif kind == "complained":
        subtype = optional_text(described, "complaintFeedbackType")
        if optional_text(described, "complaintSubType") == "OnAccountSuppressionList":
            # No complaint happened now: SES did not try, the address complained earlier.
            kind, subtype = "rejected", "OnAccountSuppressionList"
    elif name == "Rendering Failure":
        subtype = "rendering"
    elif kind == "delayed":
        subtype = optional_text(described, "delayType")
    elif kind == "unsubscribed" and not _is_unsubscribe(described):
        kind = "resubscribed"
    for recipient, about in _recipients(kind, described, mail):
        yield _event(notification, name, kind, subtype, mail, described, recipient, about, occurred_at)


def _bounce_subtype(bounce_type: str) -> str:
    """Hard for Permanent alone: "Undetermined" means that SES could not tell, and may be sent to again."""
    return "hard" if bounce_type == "Permanent" else "soft"


def _is_unsubscribe(described: Mapping[str, Any]) -> bool:
    """Whether the recipient opted out of everything or of any topic."""
    new = optional_object(described, "newTopicPreferences")
    if new.get("unsubscribeAll") is True:
        return True
    statuses = new.get("topicSubscriptionStatus")
    listed = statuses if isinstance(statuses, list) else []
    return any(isinstance(one, dict) and one.get("subscriptionStatus") == "OptOut" for one in listed)


def _recipients(
    kind: EventType, described: Mapping[str, Any], mail: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each recipient that the record is about, with what is said about it."""
    for name in ("bouncedRecipients", "complainedRecipients", "delayedRecipients"):
        if name in described:
            listed = as_list(described[name], name)
            if not listed:
                raise MalformedEventError(f"{name} is empty")
            for one in listed:
                about = as_object(one, f"{name}[]")
                yield text(about, "emailAddress", f"{name}[]."), about
            return
    if kind == "delivered" and "recipients" in described:
        addresses = as_list(described["recipients"], "delivery.recipients")
    else:
        addresses = as_list(mail.get("destination", []), "mail.destination")
        if kind in ("opened", "clicked") and len(addresses) > 1:
            addresses = [""]  # SES does not say which of them it was
    if not addresses:
        raise MalformedEventError("the record names no recipient")
    for address in addresses:
        if not isinstance(address, str):
            raise MalformedEventError("a recipient must be a text")
        yield address, {}


def _event(
    notification: Notification,
    name: str,
    kind: EventType,
    subtype: str,
    mail: Mapping[str, Any],
    described: Mapping[str, Any],
    recipient: str,
    about: Mapping[str, Any],
    occurred_at: datetime,
) -> Event:
    tags = optional_object(mail, "tags")
    ses_message_id = text(mail, "messageId", "mail.")
    feedback_id = optional_text(described, "feedbackId")
    link = optional_text(described, "link")
    identity = feedback_id or (occurred_at.isoformat(), link, optional_text(described, "ipAddress"))
    return notification.event(
        event_id=derived_event_id("ses", ses_message_id, name, identity, recipient),
        type=kind,
        subtype=subtype,
        recipient=recipient,
        occurred_at=occurred_at,
        campaign_id=carried_campaign_id(_first_tag(tags, "campaign_id")),
        message_id=canonical_message_id(_first_tag(tags, "message_id")),
        provider_message_id=ses_message_id,
        details={
            "bounce_type": optional_text(described, "bounceType"),
            "bounce_subtype": optional_text(described, "bounceSubType"),
            "status": optional_text(about, "status"),
            "diagnostic": optional_text(about, "diagnosticCode"),
            "smtp_response": optional_text(described, "smtpResponse"),
            "reason": optional_text(described, "reason") or optional_text(described, "errorMessage"),
            "url": link,
            "user_agent": optional_text(described, "userAgent"),
        },
    )


def _first_tag(tags: Mapping[str, Any], name: str) -> Any:
    values = tags.get(name)
    return values[0] if isinstance(values, list) and values else ""
