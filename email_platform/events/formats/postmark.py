"""Postmark's webhooks: one JSON object per event; ``RecordType`` says which.

Sources, in Postmark's developer documentation: "Bounce webhook", "Spam complaint webhook", "Delivery webhook", "Open
tracking webhook", "Click webhook", "Subscription change webhook", and "Bounce types" of the "Bounce API". A bounce or
complaint has an ``ID``; the others have none, so theirs is derived. Our ids come back in ``Metadata``.

| bounce Type (code) | read as | suppressed |
| --- | --- | --- |
| HardBounce (1) | bounced, hard, unless the status code in Details says that the address is good | where hard |
| BadEmailAddress (100000) | bounced, hard | for every sender |
| SoftBounce (4096), DnsError (256), Unknown (2048) | bounced, soft | no |
| Transient (2) | delayed: Postmark tries again | |
| AutoResponder (64), AddressChange (128), ChallengeVerification (16384), OpenRelayTest (1024) | auto_replied: a \
robot, no bounce | no |
| SpamNotification (512), VirusNotification (8192), Blocked (100006), DMARCPolicy (100009) | blocked | no |
| ManuallyDeactivated (100002), Unconfirmed (100003), SMTPApiError (100007), TemplateRenderingFailed (100010) | \
rejected: Postmark's own list, or never tried | no |
| InboundError (100008) | other | no |
| one that Postmark invents later | bounced, soft | no |
| Unsubscribe (16), Subscribe (32) | unsubscribed, resubscribed | for the sender |
| SpamComplaint (100001), RecordType SpamComplaint | complained | by the setting |

| SubscriptionChange | read as |
| --- | --- |
| SuppressSending false | resubscribed |
| SuppressSending true or missing, SuppressionReason ManualSuppression or none | unsubscribed |
| SuppressionReason HardBounce, SpamComplaint | other: the bounce or complaint has its own webhook |

Where django-anymail 15.2 differs: SpamNotification is "complained" there. Postmark's text says that a filter or the
user's rule classified the message, which nobody reported: a block. VirusNotification and Unknown are "bounced" and
"unknown" there, SoftBounce "bounced" as a dead address is; a SubscriptionChange after a bounce counts as a second
bounce.

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
from email_platform.events.formats.diagnosis import HARD, SOFT, Verdict, verdict_on_failure
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
_OTHER_FIELD = {"Email": "Recipient", "Recipient": "Email"}
_VERDICT_ON: Mapping[str, Verdict] = {
    "BadEmailAddress": HARD,
    "SoftBounce": SOFT,
    "DnsError": SOFT,
    "Unknown": SOFT,
    "Transient": ("delayed", "Transient"),
    **{
        robot: ("auto_replied", robot)
        for robot in ("AutoResponder", "AddressChange", "ChallengeVerification", "OpenRelayTest")
    },
    **{
        refusal: ("blocked", refusal) for refusal in ("SpamNotification", "VirusNotification", "Blocked", "DMARCPolicy")
    },
    **{
        own: ("rejected", own)
        for own in ("ManuallyDeactivated", "Unconfirmed", "SMTPApiError", "TemplateRenderingFailed")
    },
    "InboundError": ("other", "InboundError"),
    "Unsubscribe": ("unsubscribed", "Unsubscribe"),
    "Subscribe": ("resubscribed", "Subscribe"),
    "SpamComplaint": ("complained", "SpamComplaint"),
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
        kind, subtype = _bounce(bounce_type, optional_text(document, "Details"))
    elif kind == "unsubscribed":
        kind, subtype = _subscription_change(document)
    occurred_at = (
        notification.received_at
        if kind == "other" and time_field not in document
        else time_from_iso(document.get(time_field), time_field)
    )
    recipient = optional_text(document, address_field) or optional_text(document, _OTHER_FIELD[address_field])
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


def _bounce(bounce_type: str, details: str) -> Verdict:
    if bounce_type == "HardBounce":
        return verdict_on_failure(details, otherwise=HARD, word=bounce_type)
    return _VERDICT_ON.get(bounce_type, SOFT)


def _subscription_change(document: Mapping[str, Any]) -> Verdict:
    """Postmark reports its own suppressions here too: with each hard bounce and complaint, or by hand."""
    if document.get("SuppressSending") is False:
        return "resubscribed", ""
    reason = optional_text(document, "SuppressionReason")
    # The bounce or the complaint has its own webhook: counting it here too would count it twice.
    return ("unsubscribed", "") if reason in ("", "ManualSuppression") else ("other", f"suppressed:{reason}")
