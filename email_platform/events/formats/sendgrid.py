"""SendGrid's Event Webhook: a JSON array of flat events.

Sources, in Twilio SendGrid's documentation: "Event Webhook Reference" (events and their fields), "Bounce and block
classifications", "Blocks" ("an issue with the message itself rather than an issue with the recipient's address";
blocked addresses are not suppressed), "Bounces API" (the seven classifications), "Drops" (reasons). ``sg_event_id`` is
"a unique ID to this event that you can use for deduplication purposes"; custom arguments (our ``message_id`` and
``campaign_id``) come back as top-level fields. ``sg_message_id`` is the ``x-message-id`` of the call's answer,
followed by the route that the message took.

| event, type, bounce_classification | read as | suppressed |
| --- | --- | --- |
| bounce, any, Content, Reputation, Frequency or Volume Too High | blocked | no |
| bounce, any, Mailbox Unavailable, Technical Failure | bounced, soft | no |
| bounce, type bounce, Invalid Address | bounced, hard | for every sender |
| bounce, type bounce, Unclassified or none | bounced, hard, unless the status code says that the address is good | \
where hard |
| bounce, type blocked, Invalid Address | bounced, soft: the two words contradict each other | no |
| bounce, type blocked, Unclassified or none | blocked; soft where the code is 4.x or the mailbox's, or no host was \
found | no |
| bounce, type expired | bounced, soft: the tries ran out | no |
| bounce without a type (older payloads) | by the status: 4.x soft, else as type bounce | where hard |
| dropped: Bounced Address, Unsubscribed Address, Spam Reporting Address, Invalid, Recipient List over Package Quota, \
Invalid SMTPAPI header | rejected, with that reason: SendGrid's own lists, nothing was tried | no |
| dropped: Spam Content | blocked | no |
| spamreport | complained | by the setting |
| unsubscribe, group_unsubscribe | unsubscribed | for the sender |
| group_resubscribe | resubscribed | |
| processed, deferred, delivered, open, click | accepted, delayed, delivered, opened, clicked | |
| account_status_change ("account change events") | other: about no recipient; a suspended account refuses the next \
call | |

Where django-anymail 15.2 differs: it reports bounce of type blocked as "bounced", as it does a dead address. SendGrid
says that a block is no statement about the address, so we are right not to suppress it.

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
from email_platform.events.formats.diagnosis import HARD, SOFT, Verdict, diagnose, verdict_on_failure
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
    recipient = optional_text(document, "email")
    occurred_at = time_from_epoch(document.get("timestamp"), "timestamp")
    provider_message_id = optional_text(document, "sg_message_id")
    event_id = optional_text(document, "sg_event_id") or derived_event_id(
        "sendgrid", name, provider_message_id or optional_text(document, "smtp-id"), recipient, occurred_at
    )
    kind, subtype = _verdict(kind, name, document)
    yield notification.event(
        event_id=event_id,
        type=kind,
        subtype=subtype,
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


_BLOCKED_CLASSES = frozenset({"content", "reputation", "frequency or volume too high", "frequency or volume"})
_SOFT_CLASSES = frozenset({"mailbox unavailable", "technical failure", "technical"})


def _verdict(kind: EventType, name: str, document: Mapping[str, Any]) -> Verdict:
    if kind == "bounced":
        return _bounce(document)
    if kind == "rejected":
        reason = optional_text(document, "reason") or optional_text(document, "type")
        return ("blocked", reason) if reason.lower().startswith("spam content") else (kind, reason)
    if kind == "unsubscribed" and name == "group_unsubscribe":
        return kind, "group"
    return kind, name if kind == "other" else ""


def _bounce(document: Mapping[str, Any]) -> Verdict:
    bounce_type = optional_text(document, "type").lower()
    classification = optional_text(document, "bounce_classification")
    status, reason = optional_text(document, "status"), optional_text(document, "reason")
    if classification.lower() in _BLOCKED_CLASSES:
        return "blocked", classification
    if classification.lower() in _SOFT_CLASSES or bounce_type == "expired":
        return SOFT
    is_invalid = classification.lower() == "invalid address"
    if bounce_type == "blocked":
        is_soft = is_invalid or diagnose(status, reason) in ("mailbox", "dead") or "unable to get mx" in reason.lower()
        is_soft = is_soft or (status.startswith("4") and diagnose(status, reason) != "blocked")
        return SOFT if is_soft else ("blocked", classification or "blocked")
    if is_invalid:
        return HARD
    otherwise = SOFT if not bounce_type and status.startswith("4") else HARD
    return verdict_on_failure(status, reason, otherwise=otherwise, word=classification)
