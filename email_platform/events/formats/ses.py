"""Amazon SES events and feedback notifications, in an SNS envelope or as the bare SES record.

Sources, in the Amazon SES Developer Guide: "Contents of event data that Amazon SES publishes to Amazon SNS"
(``eventType``, configuration sets) and "Amazon SNS notification contents for Amazon SES" (``notificationType``,
feedback of an identity), sections "Bounce types", "Complaint object" and "DeliveryDelay object"; "Using the Amazon SES
account-level suppression list". Feedback types: RFC 5965, section 7.3, RFC 6591 and RFC 6430 in IANA's registry
"Feedback Report Type Values".

| bounceType / bounceSubType | read as | suppressed |
| --- | --- | --- |
| Permanent / NoEmail | bounced, hard | for every sender |
| Permanent / General | bounced, hard; blocked or soft where the status code says so (`diagnosis`) | where hard |
| Permanent / Suppressed, OnAccountSuppressionList, UnsubscribedRecipient, EmailValidationSuppressed | rejected: \
SES's own list, nothing was tried | no |
| Transient / ContentRejected, AttachmentRejected | blocked | no |
| Transient / General (also out-of-office replies), MailboxFull, MessageTooLarge, CustomTimeoutExceeded | bounced, \
soft; blocked where the code is x.7 | no |
| Undetermined / Undetermined | bounced, soft: SES could not tell | no |

| complaintFeedbackType | read as |
| --- | --- |
| abuse, fraud, other, none, an unknown one | complained |
| not-spam | complaint_withdrawn: lifts the suppression of an earlier complaint |
| opt-out, opt-out-list | unsubscribed |
| virus | blocked: about the content |
| auth-failure, dmarc | other: a report about our authentication, by no recipient |
| complaintSubType OnAccountSuppressionList | rejected: nobody complained now |

| eventType | read as |
| --- | --- |
| Send, Delivery, Open, Click | accepted, delivered, opened, clicked |
| DeliveryDelay (InternalFailure, General, MailboxFull, SpamDetected, RecipientServerError, IPFailure, \
TransientCommunicationFailure, BYOIPHostNameLookupUnavailable, SendingDeferral, Undetermined) | delayed |
| Reject (a virus), Rendering Failure | rejected |
| Subscription | unsubscribed or resubscribed, by newTopicPreferences |

A bounce names the address that refused. Where the recipient forwards, that is a stranger's: ``mail.destination`` is
whom we mailed, and that one is judged. With several destinations, of which none is named, the recipient stays empty
and is found by the message id (`email_platform.events.mailed`).

Where django-anymail 15.2 differs, we follow SES's own text: it reports every bounce as "bounced", also Transient,
out-of-office and suppressed ones; every complaint as "complained", also not-spam; and the address named by the bounce
as the recipient.

SES gives no event id. A bounce or complaint has a ``feedbackId``, "a unique ID for the bounce"; one notification may
name several recipients, so the id is derived from it and the recipient. Our ids come back as ``mail.tags`` where the
events are published through a configuration set; feedback notifications of an identity carry no tags and are joined by
``mail.messageId``.

Invariant: as in `email_platform.events.normalising`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from functools import partial
from typing import Any

from email_platform.domain.addresses import normalised_address
from email_platform.errors import MalformedEventError
from email_platform.events.event import (
    Event,
    EventType,
    canonical_message_id,
    carried_campaign_id,
    derived_event_id,
)
from email_platform.events.formats.diagnosis import Verdict, ses_bounce
from email_platform.events.formats.reading import (
    Notification,
    as_list,
    as_object,
    bare_address,
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
_COMPLAINTS: Mapping[str, Verdict] = {
    "not-spam": ("complaint_withdrawn", "not-spam"),
    "opt-out": ("unsubscribed", "opt-out"),
    "opt-out-list": ("unsubscribed", "opt-out-list"),
    "virus": ("blocked", "virus"),
    "auth-failure": ("other", "auth-failure"),
    "dmarc": ("other", "dmarc"),
}
# "AmazonSnsSubscriptionSucceeded" is a plain text that SES publishes once when a topic is set.
_NOTICES = ("Successfully validated SNS topic for Amazon SES",)
SUBSCRIPTION_ENDED = "UnsubscribeConfirmation"
"""Subtype of the event that says that SNS sends no more events here."""


def split(notification: Notification) -> Iterator[Any]:
    """The SES record inside the SNS envelope; nothing for a notice that is no event."""
    envelope = as_object(notification.document, "$")
    if envelope.get("Type") == SUBSCRIPTION_ENDED:
        yield envelope
        return
    if envelope.get("Type") not in (None, "Notification"):
        return
    if "Message" not in envelope:
        yield envelope
        return
    message = text(envelope, "Message")
    if not message.startswith(_NOTICES):
        yield parse_json(message)


def normalise(notification: Notification, item: Any) -> Iterator[Event]:
    """One event per recipient of the record; one that cannot be read withholds none of the others.

    Raises:
        MalformedEventError: after the good ones; names the recipients that could not be read by their index.
    """
    record = as_object(item, "Message")
    if record.get("Type") == SUBSCRIPTION_ENDED:
        yield notification.event(
            event_id=f"{SUBSCRIPTION_ENDED}:{text(record, 'MessageId')}",
            type="other",
            subtype=SUBSCRIPTION_ENDED,
            recipient="",
            occurred_at=time_from_iso(record.get("Timestamp"), "Timestamp"),
            details={"topic": optional_text(record, "TopicArn")},
        )
        return
    name = optional_text(record, "eventType") or text(record, "notificationType")
    mail = as_object(record.get("mail"), "mail")
    kind, object_name = _OBJECT_OF.get(name, ("other", name))
    described = optional_object(record, object_name)
    at = described.get("timestamp") or mail.get("timestamp")
    occurred_at = time_from_iso(at, f"{object_name}.timestamp")
    problems: list[str] = []
    for index, named in enumerate(_recipients(kind, described, mail)):
        try:
            recipient, about = named()
            verdict = _verdict(name, kind, described, about)
            yield _event(notification, name, verdict, mail, described, recipient, about, occurred_at)
        except MalformedEventError as error:
            problems.append(f"recipient {index}: {error}")
    if problems:
        raise MalformedEventError("; ".join(problems))


def _verdict(name: str, kind: EventType, described: Mapping[str, Any], about: Mapping[str, Any]) -> Verdict:
    if kind == "bounced":
        return ses_bounce(
            text(described, "bounceType", "bounce."),
            optional_text(described, "bounceSubType"),
            optional_text(about, "status"),
            optional_text(about, "diagnosticCode"),
        )
    if kind == "complained":
        if optional_text(described, "complaintSubType") == "OnAccountSuppressionList":
            return "rejected", "OnAccountSuppressionList"
        feedback = optional_text(described, "complaintFeedbackType")
        return _COMPLAINTS.get(feedback.lower(), ("complained", feedback))
    if kind == "delayed":
        return kind, optional_text(described, "delayType")
    if kind == "unsubscribed" and not _is_unsubscribe(described):
        return "resubscribed", ""
    if name == "Rendering Failure":
        return kind, "rendering"
    return kind, name if kind == "other" else ""


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
) -> Iterator[Callable[[], tuple[str, Mapping[str, Any]]]]:
    """For each recipient of the record, a function that reads its address and what is reported about it."""
    for name in ("bouncedRecipients", "complainedRecipients", "delayedRecipients"):
        if name in described:
            listed = as_list(described[name], name)
            if not listed:
                raise MalformedEventError(f"{name} is empty")
            for one in listed:
                yield partial(_named, one, name)
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
        yield partial(_plain, address)


def _named(one: Any, name: str) -> tuple[str, Mapping[str, Any]]:
    about = as_object(one, f"{name}[]")
    return text(about, "emailAddress", f"{name}[]."), about


def _plain(address: Any) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(address, str):
        raise MalformedEventError("a recipient must be a text")
    return address, {}


def _whom_we_mailed(named: str, mail: Mapping[str, Any]) -> str:
    """The destination that is meant; empty where several are possible and none is named."""
    destination = mail.get("destination")
    listed = [one for one in destination if isinstance(one, str)] if isinstance(destination, list) else []
    meant = normalised_address(bare_address(named))
    for one in listed:
        if normalised_address(bare_address(one)) == meant:
            return named
    if len(listed) == 1:
        return listed[0]
    return "" if listed else named


def _event(
    notification: Notification,
    name: str,
    verdict: Verdict,
    mail: Mapping[str, Any],
    described: Mapping[str, Any],
    recipient: str,
    about: Mapping[str, Any],
    occurred_at: datetime,
) -> Event:
    kind, subtype = verdict
    mailed = _whom_we_mailed(recipient, mail)
    tags = optional_object(mail, "tags")
    ses_message_id = text(mail, "messageId", "mail.")
    feedback_id = optional_text(described, "feedbackId")
    link = optional_text(described, "link")
    identity = feedback_id or (occurred_at.isoformat(), link, optional_text(described, "ipAddress"))
    return notification.event(
        event_id=derived_event_id("ses", ses_message_id, name, identity, recipient),
        type=kind,
        subtype=subtype,
        recipient=mailed,
        occurred_at=occurred_at,
        campaign_id=carried_campaign_id(_first_tag(tags, "campaign_id")),
        message_id=canonical_message_id(_first_tag(tags, "message_id")),
        provider_message_id=ses_message_id,
        details={
            "named": recipient if mailed != recipient else "",
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
