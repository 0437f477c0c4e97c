"""Each documented kind of feedback, of every provider, is read for what it says, and suppresses whom it should."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from email_platform.events import Event, ReceivedBody, normalise_body
from email_platform.events.formats.diagnosis import diagnose
from email_platform.events.suppression import SuppressionRequest, suppressions_from

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
MESSAGE_ID = "0b7c2f5e-9d3a-5c1b-8a44-3f1d2c6b7a90"
HARD, SOFT = ("bounced", "hard"), ("bounced", "soft")


def read(provider: str, document: Any) -> list[Event]:
    normalised = normalise_body(ReceivedBody(provider, "default", NOW, "msg_1", json.dumps(document).encode()))
    assert normalised.problem == ""
    return list(normalised.events)


def verdict(provider: str, document: Any) -> tuple[str, str]:
    [event] = read(provider, document)
    assert event.recipient == "ann@example.com"
    expected = {"bounced/hard": "hard_bounce", "complained": "complaint", "unsubscribed": "unsubscribe"}
    key = f"{event.type}/{event.subtype}" if event.type == "bounced" else event.type
    reasons = [one.reason for one in suppressions_from([event]) if not one.lifts]
    assert reasons == ([expected[key]] if key in expected else []), "nothing else suppresses"
    return event.type, event.subtype


def ses(name: str, **described: Any) -> dict[str, Any]:
    return {
        "eventType": name,
        name.lower(): {"timestamp": "2026-11-20T11:59:00.000Z", **described},
        "mail": {
            "timestamp": "2026-11-20T11:58:00.000Z",
            "messageId": "m-1",
            "destination": ["ann@example.com"],
            "tags": {"campaign_id": ["7"], "message_id": [MESSAGE_ID]},
        },
    }


def ses_bounce(bounce_type: str, subtype: str, status: str = "", diagnostic: str = "") -> dict[str, Any]:
    about = {"emailAddress": "ann@example.com", "status": status, "diagnosticCode": diagnostic}
    return ses("Bounce", bounceType=bounce_type, bounceSubType=subtype, bouncedRecipients=[about], feedbackId="fb-1")


@pytest.mark.parametrize(
    ("bounce_type", "subtype", "status", "diagnostic", "expected"),
    [
        ("Permanent", "General", "5.1.1", "smtp; 550 5.1.1 user unknown", HARD),
        ("Permanent", "General", "", "", HARD),
        ("Permanent", "General", "5.4.1", "smtp; 550 5.4.1 Recipient address rejected", HARD),
        ("Permanent", "NoEmail", "", "", HARD),
        ("Permanent", "General", "5.7.1", "smtp; 550 5.7.1 blocked for spam", ("blocked", "General")),
        ("Permanent", "General", "", "smtp; 550-5.7.26 unauthenticated mail", ("blocked", "General")),
        ("Permanent", "General", "5.2.2", "smtp; 552 5.2.2 over quota", SOFT),
        ("Permanent", "Suppressed", "5.1.1", "Amazon SES has suppressed sending", ("rejected", "Suppressed")),
        ("Permanent", "OnAccountSuppressionList", "5.1.1", "", ("rejected", "OnAccountSuppressionList")),
        ("Permanent", "UnsubscribedRecipient", "", "", ("rejected", "UnsubscribedRecipient")),
        ("Transient", "General", "", "", SOFT),
        ("Transient", "MailboxFull", "4.2.2", "", SOFT),
        ("Transient", "MessageTooLarge", "5.3.4", "", SOFT),
        ("Transient", "CustomTimeoutExceeded", "", "", SOFT),
        ("Transient", "ContentRejected", "", "", ("blocked", "ContentRejected")),
        ("Transient", "AttachmentRejected", "", "", ("blocked", "AttachmentRejected")),
        ("Transient", "General", "4.7.0", "smtp; 421 4.7.0 unusual rate", ("blocked", "General")),
        ("Undetermined", "Undetermined", "", "", SOFT),
        ("Permanent", "InventedLater", "", "", HARD),
        ("InventedLater", "InventedLater", "", "", SOFT),
    ],
)
def test_bounces_of_ses(bounce_type: str, subtype: str, status: str, diagnostic: str, expected: Any) -> None:
    assert verdict("ses", ses_bounce(bounce_type, subtype, status, diagnostic)) == expected


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        ({"complaintFeedbackType": "abuse"}, ("complained", "abuse")),
        ({"complaintFeedbackType": "fraud"}, ("complained", "fraud")),
        ({"complaintFeedbackType": "other"}, ("complained", "other")),
        ({}, ("complained", "")),
        ({"complaintFeedbackType": "not-spam"}, ("complaint_withdrawn", "not-spam")),
        ({"complaintFeedbackType": "opt-out"}, ("unsubscribed", "opt-out")),
        ({"complaintFeedbackType": "virus"}, ("blocked", "virus")),
        ({"complaintFeedbackType": "auth-failure"}, ("other", "auth-failure")),
        ({"complaintSubType": "OnAccountSuppressionList"}, ("rejected", "OnAccountSuppressionList")),
    ],
)
def test_complaints_of_ses(feedback: dict[str, str], expected: Any) -> None:
    complained = [{"emailAddress": "ann@example.com"}]
    assert verdict("ses", ses("Complaint", complainedRecipients=complained, **feedback)) == expected


def sendgrid(event: str, **more: Any) -> list[dict[str, Any]]:
    return [{"event": event, "email": "ann@example.com", "timestamp": 1795175940, "sg_event_id": "e1", **more}]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (sendgrid("bounce", type="bounce", status="5.1.1", reason="550 5.1.1 unknown"), HARD),
        (sendgrid("bounce", type="bounce", bounce_classification="Invalid Address"), HARD),
        (sendgrid("bounce", type="bounce", bounce_classification="Unclassified", status="5.0.0"), HARD),
        (sendgrid("bounce", type="bounce", reason="550 5.7.1 our policy"), ("blocked", "policy")),
        (sendgrid("bounce", type="bounce", status="5.2.2"), SOFT),
        (sendgrid("bounce", type="bounce", bounce_classification="Mailbox Unavailable"), SOFT),
        (sendgrid("bounce", type="bounce", bounce_classification="Technical Failure"), SOFT),
        (sendgrid("bounce", type="blocked", bounce_classification="Reputation"), ("blocked", "Reputation")),
        (sendgrid("bounce", type="bounce", bounce_classification="Content"), ("blocked", "Content")),
        (
            sendgrid("bounce", type="blocked", bounce_classification="Frequency or Volume Too High"),
            ("blocked", "Frequency or Volume Too High"),
        ),
        (sendgrid("bounce", type="blocked", reason="550 spam"), ("blocked", "blocked")),
        (sendgrid("bounce", type="blocked", status="5.7.1"), ("blocked", "blocked")),
        (sendgrid("bounce", type="blocked", status="4.2.2", reason="452 full"), SOFT),
        (sendgrid("bounce", type="blocked", bounce_classification="Invalid Address"), SOFT),
        (
            sendgrid("bounce", type="blocked", bounce_classification="Unclassified", reason="unable to get mx info: x"),
            SOFT,
        ),
        (sendgrid("bounce", type="expired"), SOFT),
        (sendgrid("dropped", reason="Bounced Address"), ("rejected", "Bounced Address")),
        (sendgrid("dropped", reason="Unsubscribed Address"), ("rejected", "Unsubscribed Address")),
        (sendgrid("dropped", reason="Spam Reporting Address"), ("rejected", "Spam Reporting Address")),
        (sendgrid("dropped", reason="Invalid"), ("rejected", "Invalid")),
        (
            sendgrid("dropped", reason="Spam Content (if spam checker app enabled)"),
            ("blocked", "Spam Content (if spam checker app enabled)"),
        ),
        (sendgrid("spamreport"), ("complained", "")),
        (sendgrid("unsubscribe"), ("unsubscribed", "")),
        (sendgrid("group_unsubscribe"), ("unsubscribed", "group")),
        (sendgrid("group_resubscribe"), ("resubscribed", "")),
        (sendgrid("deferred"), ("delayed", "")),
    ],
)
def test_feedback_of_sendgrid(event: Any, expected: Any) -> None:
    assert verdict("sendgrid", event) == expected


@pytest.mark.parametrize(
    ("bounce_type", "details", "expected"),
    [
        ("HardBounce", "smtp;550 5.1.1 no such account", HARD),
        ("HardBounce", "smtp;550 5.7.1 refused by policy", ("blocked", "HardBounce")),
        ("HardBounce", "", HARD),
        ("BadEmailAddress", "", HARD),
        ("SoftBounce", "", SOFT),
        ("DnsError", "", SOFT),
        ("Unknown", "", SOFT),
        ("Transient", "", ("delayed", "Transient")),
        ("AutoResponder", "", ("auto_replied", "AutoResponder")),
        ("AddressChange", "", ("auto_replied", "AddressChange")),
        ("ChallengeVerification", "", ("auto_replied", "ChallengeVerification")),
        ("OpenRelayTest", "", ("auto_replied", "OpenRelayTest")),
        ("SpamNotification", "", ("blocked", "SpamNotification")),
        ("VirusNotification", "", ("blocked", "VirusNotification")),
        ("Blocked", "", ("blocked", "Blocked")),
        ("DMARCPolicy", "", ("blocked", "DMARCPolicy")),
        ("ManuallyDeactivated", "", ("rejected", "ManuallyDeactivated")),
        ("Unconfirmed", "", ("rejected", "Unconfirmed")),
        ("SMTPApiError", "", ("rejected", "SMTPApiError")),
        ("TemplateRenderingFailed", "", ("rejected", "TemplateRenderingFailed")),
        ("InboundError", "", ("other", "InboundError")),
        ("Unsubscribe", "", ("unsubscribed", "Unsubscribe")),
        ("Subscribe", "", ("resubscribed", "Subscribe")),
        ("SpamComplaint", "", ("complained", "SpamComplaint")),
        ("InventedLater", "", SOFT),
    ],
)
def test_bounces_of_postmark(bounce_type: str, details: str, expected: Any) -> None:
    record = {
        "RecordType": "Bounce",
        "ID": 42,
        "Type": bounce_type,
        "Details": details,
        "Email": "ann@example.com",
        "BouncedAt": "2026-11-20T11:59:00Z",
    }
    assert verdict("postmark", record) == expected


def mailgun(event: str, **more: Any) -> dict[str, Any]:
    return {
        "signature": {},
        "event-data": {
            "event": event,
            "id": "id-1",
            "timestamp": 1795175940.5,
            "recipient": "ann@example.com",
            "user-variables": {"campaign_id": "7", "message_id": MESSAGE_ID},
            **more,
        },
    }


def failed(severity: str, reason: str, **status: Any) -> dict[str, Any]:
    return mailgun("failed", severity=severity, reason=reason, **{"delivery-status": status})


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (failed("permanent", "bounce", code=550, message="5.1.1 no such account"), HARD),
        (failed("permanent", "bounce", code=550), HARD),
        (failed("permanent", "bounce", code=550, **{"enhanced-code": "5.7.1"}), ("blocked", "bounce")),
        (failed("permanent", "bounce", code=552, **{"bounce-type": "soft"}), SOFT),
        (failed("permanent", "bounce", code=552, message="5.2.2 mailbox full"), SOFT),
        (failed("permanent", "espblock", code=550), ("blocked", "espblock")),
        (failed("permanent", "generic", code=550), SOFT),
        (failed("permanent", "generic", code=550, message="5.1.1 unknown"), HARD),
        (failed("permanent", "generic", code=550, message="5.7.1 policy"), ("blocked", "generic")),
        (failed("permanent", "old"), SOFT),
        (failed("temporary", "old"), SOFT),
        (failed("temporary", "generic", code=498), ("delayed", "temporary")),
        (failed("temporary", "greylisted", code=450), ("delayed", "temporary")),
        (failed("permanent", "suppress-bounce", code=605), ("rejected", "suppress-bounce")),
        (failed("permanent", "suppress-unsubscribe", code=606), ("rejected", "suppress-unsubscribe")),
        (failed("permanent", "suppress-complaint", code=607), ("rejected", "suppress-complaint")),
        (failed("permanent", "bounce", code=605), ("rejected", "suppress-bounce")),
        (mailgun("complained"), ("complained", "")),
        (mailgun("unsubscribed"), ("unsubscribed", "")),
        (mailgun("rejected", reject={"reason": "Sandbox"}), ("rejected", "Sandbox")),
    ],
)
def test_feedback_of_mailgun(event: Any, expected: Any) -> None:
    assert verdict("mailgun", event) == expected


def resend(name: str, **more: Any) -> dict[str, Any]:
    return {
        "type": name,
        "created_at": "2026-11-20T11:59:00.000Z",
        "data": {"email_id": "e1", "to": ["ann@example.com"], **more},
    }


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (resend("email.bounced", bounce={"type": "Permanent", "subType": "General"}), HARD),
        (resend("email.bounced", bounce={"type": "Permanent", "subType": "NoEmail"}), HARD),
        (resend("email.bounced", bounce={"type": "Permanent", "subType": "Suppressed"}), ("rejected", "Suppressed")),
        (
            resend("email.bounced", bounce={"type": "Permanent", "subType": "OnAccountSuppressionList"}),
            ("rejected", "OnAccountSuppressionList"),
        ),
        (resend("email.bounced", bounce={"type": "Transient", "subType": "MailboxFull"}), SOFT),
        (
            resend("email.bounced", bounce={"type": "Transient", "subType": "ContentRejected"}),
            ("blocked", "ContentRejected"),
        ),
        (resend("email.bounced", bounce={"type": "Undetermined", "subType": "Undetermined"}), SOFT),
        (
            resend("email.bounced", bounce={"message": "Resend has suppressed sending to it"}),
            ("rejected", "Suppressed"),
        ),
        (resend("email.bounced", bounce={"message": "hard bounce"}), HARD),
        (resend("email.suppressed"), ("rejected", "")),
        (resend("email.failed", failed={"reason": "reached_daily_quota"}), ("rejected", "")),
        (resend("email.complained"), ("complained", "")),
        (resend("email.delivery_delayed"), ("delayed", "")),
    ],
)
def test_feedback_of_resend(event: Any, expected: Any) -> None:
    assert verdict("resend", event) == expected


@pytest.mark.parametrize(
    ("provider", "document", "name"),
    [
        (
            "sendgrid",
            [{"event": "account_status_change", "type": "compliance_suspend", "timestamp": 1795175940}],
            "account_status_change",
        ),
        (
            "resend",
            {**resend("suppression.added"), "data": {"id": "s1", "email": "ann@example.com"}},
            "suppression.added",
        ),
        ("resend", {**resend("contact.created"), "data": {"id": "c1"}}, "contact.created"),
    ],
)
def test_news_about_no_message_is_kept_and_judges_nobody(provider: str, document: Any, name: str) -> None:
    (event,) = read(provider, document)
    assert (event.type, event.subtype, event.recipient) == ("other", name, "")
    assert not list(suppressions_from([event]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("550 5.1.1 unknown", "dead"),
        ("550-5.1.10 RecipientNotFound", "dead"),
        ("552 5.2.2 full", "mailbox"),
        ("554 5.7.1 [203.5.7.1] listed", "blocked"),
        ("554 refused: host 5.1.1.1 is listed", "unclear"),
        ("version 15.1.1", "unclear"),
        ("421 4.7.28 rate", "blocked"),
        ("550 5.4.1 no", "unclear"),
        ("2.1.5 fine", "unclear"),
        ("", "unclear"),
    ],
)
def test_status_codes_are_found_and_addresses_of_hosts_are_not_taken_for_them(text: str, expected: str) -> None:
    assert diagnose(text) == expected


# --- whom it is about ---------------------------------------------------------------------------------------------


def test_a_bounce_of_a_forwarded_mail_is_judged_by_the_address_that_we_mailed() -> None:
    record = ses_bounce("Permanent", "General", "5.1.1")
    record["bounce"]["bouncedRecipients"][0]["emailAddress"] = "forwarded@other.example"
    envelope = {"Type": "Notification", "Message": json.dumps(record)}
    [event] = read("ses", envelope)
    assert event.recipient == "ann@example.com"
    assert json.loads(event.details)["named"] == "forwarded@other.example"
    assert [one.address for one in suppressions_from([event])] == ["ann@example.com"]


@pytest.mark.parametrize(
    ("suppressing", "expected"),
    [({"SuppressSending": True}, "unsubscribed"), ({"SuppressSending": False}, "resubscribed"), ({}, "unsubscribed")],
)
def test_postmark_s_change_of_a_subscription_without_its_field_suppresses(
    suppressing: dict[str, bool], expected: str
) -> None:
    document = {"RecordType": "SubscriptionChange", "MessageID": "m1", "Recipient": "ann@example.com"}
    [event] = read("postmark", {**document, "ChangedAt": "2026-11-20T11:59:00Z", **suppressing})
    assert event.type == expected


def test_a_bounce_that_names_none_of_several_destinations_names_nobody() -> None:
    record = ses_bounce("Permanent", "General")
    record["mail"]["destination"] = ["Ann <ann@example.com>", "bob@example.com"]
    assert [event.recipient for event in read("ses", record)] == ["ann@example.com"]
    record["bounce"]["bouncedRecipients"][0]["emailAddress"] = "forwarded@other.example"
    events = read("ses", record)
    assert [event.recipient for event in events] == [""]
    assert suppressions_from(events) == []


@pytest.mark.parametrize(
    ("provider", "document"),
    [
        ("mailgun", mailgun("rejected", recipient="", message={"headers": {"to": "Ann <ann@example.com>"}})),
        (
            "postmark",
            {
                "RecordType": "SubscriptionChange",
                "MessageID": "m1",
                "Email": "ann@example.com",
                "ChangedAt": "2026-11-20T11:59:00Z",
                "SuppressSending": True,
            },
        ),
    ],
)
def test_the_recipient_is_read_from_where_it_stands(provider: str, document: Any) -> None:
    [event] = read(provider, document)
    assert event.recipient == "ann@example.com"


@pytest.mark.parametrize(
    ("provider", "document"),
    [
        ("mailgun", mailgun("rejected", recipient=None)),
        ("mailgun", mailgun("unsubscribed", recipient=None)),
        (
            "postmark",
            {
                "RecordType": "Bounce",
                "Type": "Unsubscribe",
                "ID": 1,
                "BouncedAt": "2026-11-20T11:59:00Z",
                "Metadata": {"campaign_id": "7", "message_id": MESSAGE_ID},
            },
        ),
        ("sendgrid", [{**sendgrid("unsubscribe")[0], "email": None}]),
    ],
)
def test_an_event_without_a_recipient_is_read_and_names_nobody(provider: str, document: Any) -> None:
    [event] = read(provider, document)
    assert event.recipient == ""
    assert suppressions_from([event]) == []


def test_a_complaint_that_is_taken_back_lifts_what_it_suppressed_and_no_more() -> None:
    complained = [{"emailAddress": "ann@example.com"}]
    events = read("ses", ses("Complaint", complainedRecipients=complained, complaintFeedbackType="not-spam"))
    [request] = suppressions_from(events)
    assert request == SuppressionRequest(
        "ann@example.com",
        "complaint",
        "ses/default",
        everywhere=False,
        campaign_id=7,
        created_at=datetime(2026, 11, 20, 11, 59, tzinfo=UTC),
        lifts=True,
    )


# --- what cannot be read ------------------------------------------------------------------------------------------


def test_a_byte_that_is_no_utf_8_loses_nothing_but_itself() -> None:
    batch = [*sendgrid("bounce", type="bounce", reason="550 5.1.1 ?t? unknown"), *sendgrid("open", sg_event_id="e2")]
    body = json.dumps(batch).encode().replace(b"?t?", b"\xe9t\xe9")
    normalised = normalise_body(ReceivedBody("sendgrid", "default", NOW, "", body))
    assert normalised.problem == ""
    assert [event.event_id for event in normalised.events] == ["e1", "e2"]
    assert json.loads(normalised.events[0].details)["reason"] == "550 5.1.1 \ufffdt\ufffd unknown"


@pytest.mark.parametrize("text", [r"\ud800", r"\udc00\ud800", r"a\udfff"])
def test_half_a_surrogate_pair_loses_nothing_but_itself(text: str) -> None:
    batch = json.dumps([*sendgrid("open", useragent="AGENT"), *sendgrid("open", sg_event_id="e2")])
    body = batch.replace("AGENT", text + r"\ud83d\ude00").encode()
    normalised = normalise_body(ReceivedBody("sendgrid", "default", NOW, "", body))
    assert (normalised.problem, len(normalised.events)) == ("", 2)
    agent = json.loads(normalised.events[0].details)["user_agent"]
    assert agent.endswith("\U0001f600")
    assert "\ufffd" in agent


@pytest.mark.parametrize("bad", [None, 7, [], {}, "x", {"event": "bounce"}, {"event": "open", "timestamp": 1e300}])
def test_one_bad_element_withholds_no_other_and_is_named_by_its_index(bad: Any) -> None:
    batch = [*sendgrid("open"), bad, *sendgrid("open", sg_event_id="e3")]
    normalised = normalise_body(ReceivedBody("sendgrid", "default", NOW, "", json.dumps(batch).encode()))
    assert [event.event_id for event in normalised.events] == ["e1", "e3"]
    assert normalised.problem.startswith("event 1: ")


def test_a_fault_of_ours_in_one_element_withholds_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    from email_platform.events import event as event_module
    from email_platform.events.formats import sendgrid as format_of_sendgrid

    real = event_module.carried_campaign_id

    def fails(value: object) -> int:
        if value == "boom":
            raise RuntimeError("ann@example.com")
        return real(value)

    monkeypatch.setattr(format_of_sendgrid, "carried_campaign_id", fails)
    batch = [*sendgrid("open", campaign_id="boom"), *sendgrid("open", sg_event_id="e2")]
    normalised = normalise_body(ReceivedBody("sendgrid", "default", NOW, "", json.dumps(batch).encode()))
    assert [event.event_id for event in normalised.events] == ["e2"]
    assert normalised.problem == "event 0: RuntimeError while it was read"


@pytest.mark.parametrize("bad", [{}, None, {"emailAddress": 7}])
def test_one_bad_recipient_of_ses_withholds_no_other(bad: Any) -> None:
    record = ses_bounce("Permanent", "General")
    good = record["bounce"]["bouncedRecipients"][0]
    record["mail"]["destination"] = ["ann@example.com", "bob@example.com"]
    record["bounce"]["bouncedRecipients"] = [good, bad, {"emailAddress": "bob@example.com"}]
    normalised = normalise_body(ReceivedBody("ses", "default", NOW, "", json.dumps(record).encode()))
    assert [event.recipient for event in normalised.events] == ["ann@example.com", "bob@example.com"]
    assert normalised.problem.startswith("event 0: recipient 1: ")


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a": ' + b"9" * 5000 + b"}", b"[NaN]", b"\xff"])
def test_what_no_reader_can_take_is_a_problem_and_no_exception(body: bytes) -> None:
    assert normalise_body(ReceivedBody("sendgrid", "default", NOW, "", body)).problem


def test_the_end_of_a_subscription_is_an_event_that_an_operator_gets_to_see() -> None:
    [event] = read(
        "ses",
        {
            "Type": "UnsubscribeConfirmation",
            "MessageId": "m1",
            "TopicArn": "arn:aws:sns:us-east-1:123456789012:ses",
            "Timestamp": "2026-11-20T11:59:00.000Z",
        },
    )
    assert (event.type, event.subtype, event.recipient) == ("other", "UnsubscribeConfirmation", "")
