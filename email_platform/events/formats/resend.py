"""Resend's webhooks: ``{"type": "email.bounced", "created_at": ..., "data": {...}}``.

Sources, in Resend's documentation: "Event Types" and the page of each event, "Email Bounces". The body has no event
id; the ``svix-id`` header is "the unique identifier for the webhook message" and repeats when it is sent again, so it
is the id. Tags come back as an object (or, as they were sent, as a list of name and value).

| type | read as | suppressed |
| --- | --- | --- |
| email.bounced, bounce.type Permanent, subType General, NoEmail | as SES's (`email_platform.events.formats.ses`) | \
where hard |
| email.bounced, Permanent, Suppressed, OnAccountSuppressionList | rejected: Resend's own list | no |
| email.bounced, Transient, General, MailboxFull, MessageTooLarge | bounced, soft | no |
| email.bounced, Transient, ContentRejected, AttachmentRejected | blocked | no |
| email.bounced, Undetermined | bounced, soft | no |
| email.bounced without a type (older payloads) | bounced, hard; rejected where the message says "suppressed sending" \
| where hard |
| email.suppressed, email.failed | rejected | no |
| email.complained | complained | by the setting |
| email.sent, email.delivered, email.delivery_delayed, email.opened, email.clicked | accepted, delivered, delayed, \
opened, clicked | |
| email.scheduled, email.received, contact.*, domain.*, suppression.* (the bounce or complaint has its own) | other | |

Where django-anymail 15.2 differs: it reports every email.bounced as "bounced" and reads the cause from the English
message, and names the first of several recipients. Resend documents type and subType now, so we go by those, and by
all recipients.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from email_platform.errors import MalformedEventError
from email_platform.events.event import (
    Event,
    EventType,
    canonical_message_id,
    carried_campaign_id,
    derived_event_id,
)
from email_platform.events.formats.diagnosis import HARD, Verdict, ses_bounce
from email_platform.events.formats.reading import (
    Notification,
    as_object,
    optional_object,
    optional_text,
    text,
    time_from_iso,
)

_TYPE_OF: Mapping[str, EventType] = {
    "email.sent": "accepted",
    "email.delivery_delayed": "delayed",
    "email.delivered": "delivered",
    "email.opened": "opened",
    "email.clicked": "clicked",
    "email.bounced": "bounced",
    "email.complained": "complained",
    "email.failed": "rejected",
    "email.suppressed": "rejected",
}


def split(notification: Notification) -> Iterator[Any]:
    """The body is one notification."""
    yield notification.document


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One event per address in ``data.to``."""
    document = as_object(item, "$")
    name = text(document, "type")
    data = as_object(document.get("data"), "data")
    kind = _TYPE_OF.get(name, "other")
    bounce = optional_object(data, "bounce")
    click = optional_object(data, "click")
    kind, subtype = _bounce(bounce) if kind == "bounced" else (kind, name if kind == "other" else "")
    at = click.get("timestamp") or document.get("created_at")
    occurred_at = time_from_iso(at, "created_at")
    email_id = optional_text(data, "email_id") if kind == "other" else text(data, "email_id", "data.")
    tags = _tags(data.get("tags"))
    recipients = _recipients(data.get("to"), required=kind != "other")
    for recipient in recipients:
        own_id = notification.webhook_id
        if not own_id or len(recipients) > 1:
            own_id = derived_event_id("resend", own_id or (name, email_id, at), recipient)
        yield notification.event(
            event_id=own_id,
            type=kind,
            subtype=subtype,
            recipient=recipient,
            occurred_at=occurred_at,
            campaign_id=carried_campaign_id(tags.get("campaign_id")),
            message_id=canonical_message_id(tags.get("message_id")),
            provider_message_id=email_id,
            details={
                "bounce_type": optional_text(bounce, "type"),
                "bounce_subtype": optional_text(bounce, "subType"),
                "reason": optional_text(bounce, "message")
                or optional_text(optional_object(data, "failed"), "reason")
                or optional_text(optional_object(data, "suppressed"), "message"),
                "url": optional_text(click, "link"),
                "user_agent": optional_text(click, "userAgent"),
            },
        )


def _bounce(bounce: Mapping[str, Any]) -> Verdict:
    bounce_type, message = optional_text(bounce, "type"), optional_text(bounce, "message")
    if not bounce_type:
        return ("rejected", "Suppressed") if "suppressed sending" in message.lower() else HARD
    return ses_bounce(bounce_type, optional_text(bounce, "subType"), message)


def _recipients(to: Any, *, required: bool) -> list[str]:
    addresses = [to] if isinstance(to, str) else to
    if isinstance(addresses, list) and addresses and all(isinstance(one, str) for one in addresses):
        return addresses
    if required:
        raise MalformedEventError("data.to must be a list of addresses")
    return [""]


def _tags(tags: Any) -> Mapping[str, Any]:
    if isinstance(tags, dict):
        return tags
    if isinstance(tags, list):
        return {
            one["name"]: one.get("value") for one in tags if isinstance(one, dict) and isinstance(one.get("name"), str)
        }
    return {}
