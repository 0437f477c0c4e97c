"""Mailgun's webhooks: ``{"signature": {...}, "event-data": {...}}``.

Sources, in Mailgun's documentation: "Webhook Payloads", "Events" (Event structure, Event types), "Bounces" ("permanent
recipient mailbox errors such as non-existent mailbox. Soft bounces … and other failures (for example, ESP rejects an
email because it thinks it is spam) are not added"). ``event-data.id`` is unique within a day and account and repeats
with a retry; together with the event's name it is the id. Our ids come back in ``user-variables``.

| event, severity, reason | read as | suppressed |
| --- | --- | --- |
| failed, any, old | bounced, soft: Mailgun gave up after trying for too long | no |
| failed, temporary, any other (generic, greylisted, espblock) | delayed: Mailgun tries again | |
| failed, permanent, suppress-bounce, suppress-unsubscribe, suppress-complaint; code 605, 606, 607 | rejected: \
Mailgun's own list, nothing was tried | no |
| failed, permanent, espblock | blocked | no |
| failed, permanent, bounce | bounced, hard; soft where bounce-type is "soft"; blocked or soft where the status code \
says that the address is good | where hard |
| failed, permanent, generic or any other | bounced, soft; hard or blocked only where the status code says so | where \
hard |
| rejected | rejected, with reject.reason | no |
| complained, unsubscribed | complained, unsubscribed | by the setting; for the sender |
| accepted, delivered, opened, clicked | the same | |

A ``rejected`` event may lack ``recipient``: then it is read from the message's To.

Where django-anymail 15.2 differs: it reports every permanent failure as "bounced", also espblock and those of
Mailgun's own lists; Mailgun itself keeps a block off its bounce list. It takes signature.token as the id, which a
forged body may share.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from email_platform.events.event import Event, EventType, canonical_message_id, carried_campaign_id
from email_platform.events.formats.diagnosis import HARD, SOFT, Verdict, diagnose, verdict_on_failure
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
    status = optional_object(document, "delivery-status")
    if kind == "bounced":
        kind, subtype = _failure(optional_text(document, "severity"), reason, status)
    elif kind == "rejected":
        subtype = optional_text(optional_object(document, "reject"), "reason")
    variables = optional_object(document, "user-variables")
    client = optional_object(document, "client-info")
    headers = optional_object(optional_object(document, "message"), "headers")
    yield notification.event(
        event_id=f"{name}:{text(document, 'id')}",
        type=kind,
        subtype=subtype,
        recipient=optional_text(document, "recipient") or optional_text(headers, "to"),
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


_SUPPRESSED_CODES: Mapping[str, str] = {
    "605": "suppress-bounce",
    "606": "suppress-unsubscribe",
    "607": "suppress-complaint",
}


def _failure(severity: str, reason: str, status: Mapping[str, Any]) -> Verdict:
    if reason == "old":
        return SOFT
    if severity == "temporary":
        return "delayed", "temporary"
    code = optional_text(status, "code")
    if reason.startswith("suppress-") or code in _SUPPRESSED_CODES:
        return "rejected", reason if reason.startswith("suppress-") else _SUPPRESSED_CODES[code]
    if reason == "espblock":
        return "blocked", reason
    answers = (optional_text(status, "enhanced-code"), optional_text(status, "message"))
    if reason != "bounce":
        otherwise = HARD if diagnose(*answers) == "dead" else SOFT
        return verdict_on_failure(*answers, otherwise=otherwise, word=reason)
    if optional_text(status, "bounce-type") == "soft":
        return verdict_on_failure(*answers, otherwise=SOFT, word=reason)
    return verdict_on_failure(*answers, otherwise=HARD, word=reason)


def _bracketed(message_id: str) -> str:
    """As the call's answer gives it, ``<id@domain>``; webhooks leave the brackets out."""
    return f"<{message_id.strip('<>')}>" if message_id else ""
