"""Signatures made by the providers' own published helpers are accepted; a flipped byte and an old time are not."""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import pytest
import svix.webhooks
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from sendgrid.helpers.eventwebhook import EventWebhook
from standardwebhooks import Webhook

from email_platform.adapters.providers import provider_names
from email_platform.errors import ConfigurationError, MalformedEventError, PartUnavailableError, WebhookRefusedError
from email_platform.events.accounts import WebhookAccounts, standard_webhooks_key, webhook_variable
from email_platform.events.normalising import FORMATS
from email_platform.events.verification import (
    SENDGRID_SIGNATURE_HEADER,
    SENDGRID_TIMESTAMP_HEADER,
    BasicAuthVerifier,
    MailgunVerifier,
    Proof,
    SendGridVerifier,
    SnsVerifier,
    StandardWebhooksVerifier,
    Verifier,
    sns_canonical_string,
)
from email_platform.local.provider_simulator.webhook_signature import signed_headers, signing_key
from tests.fakes.webhook_signers import mailgun_signature, sendgrid_key, sendgrid_signature, sns_certificate

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
BODY = b'{"events": [{"recipient": "ann\xc3\xa9@example.com"}]}'
TOPIC = "arn:aws:sns:us-east-1:123456789012:ses-events"
CERTIFICATE_URL = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem"
SECRET = "whsec_" + base64.b64encode(b"a-secret-of-the-test-32-bytes-xx").decode()


def clock() -> datetime:
    return NOW


def verify(verifier: Verifier, headers: Mapping[str, str], body: bytes) -> Proof:
    return asyncio.run(verifier.verify(headers, body))


def refused(verifier: Verifier, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        verify(verifier, headers, body)
    except (WebhookRefusedError, MalformedEventError):
        return True
    return False


def flips(content: bytes, positions: int = 40) -> list[bytes]:
    """The content with one bit flipped, at places spread over it."""
    step = max(1, len(content) // positions)
    return [
        content[:index] + bytes([content[index] ^ 0x01]) + content[index + 1 :]
        for index in range(0, len(content), step)
    ]


# --- Svix, Standard Webhooks -------------------------------------------------------------------------------------


def standard_headers(prefix: str, identifier: str, at: datetime, signature: str) -> dict[str, str]:
    return {
        f"{prefix}-id": identifier,
        f"{prefix}-timestamp": str(int(at.timestamp())),
        f"{prefix}-signature": signature,
    }


@pytest.mark.parametrize(
    ("prefix", "sign"),
    [("svix", svix.webhooks.Webhook(SECRET).sign), ("webhook", Webhook(SECRET).sign)],
    ids=["svix's own signer", "the Standard Webhooks signer"],
)
def test_a_published_signer_is_accepted_and_a_flipped_byte_refused(
    prefix: str, sign: Callable[[str, datetime, str], str]
) -> None:
    now = datetime.now(UTC)
    headers = standard_headers(prefix, "msg_1", now, sign("msg_1", now, BODY.decode()))
    verifier = StandardWebhooksVerifier(standard_webhooks_key(SECRET))
    assert verify(verifier, headers, BODY) == Proof("msg_1")
    assert all(refused(verifier, headers, flipped) for flipped in flips(BODY))
    assert refused(verifier, {**headers, f"{prefix}-id": "msg_2"}, BODY)
    assert refused(StandardWebhooksVerifier(b"another key"), headers, BODY)


def test_standard_webhooks_of_the_simulator_are_accepted_with_any_form_of_secret() -> None:
    now_seconds = int(datetime.now(UTC).timestamp())
    for secret in (SECRET, "a plain secret"):
        headers = signed_headers(signing_key(secret), "msg_1", now_seconds, BODY)
        assert verify(StandardWebhooksVerifier(standard_webhooks_key(secret)), headers, BODY) == Proof("msg_1")


@pytest.mark.parametrize("offset_seconds", [-600, 600])
def test_standard_webhooks_outside_the_window_are_refused(offset_seconds: int) -> None:
    at = datetime.now(UTC) + timedelta(seconds=offset_seconds)
    headers = standard_headers("svix", "msg_1", at, Webhook(SECRET).sign("msg_1", at, BODY.decode()))
    assert refused(StandardWebhooksVerifier(standard_webhooks_key(SECRET)), headers, BODY)


@pytest.mark.parametrize(
    "change",
    [
        {"svix-signature": ""},
        {"svix-signature": "v1"},
        {"svix-signature": "v1,***"},
        {"svix-signature": "v2,AAAA"},
        {"svix-timestamp": "nan"},
        {"svix-timestamp": "١٢٣"},
        {"svix-id": "msg.1"},
    ],
)
def test_standard_webhooks_with_odd_headers_are_refused_without_another_exception(change: dict[str, str]) -> None:
    now = datetime.now(UTC)
    headers = standard_headers("svix", "msg_1", now, Webhook(SECRET).sign("msg_1", now, BODY.decode()))
    assert refused(StandardWebhooksVerifier(standard_webhooks_key(SECRET)), {**headers, **change}, BODY)
    assert refused(StandardWebhooksVerifier(standard_webhooks_key(SECRET)), headers, b"\xff" + BODY)


# --- SendGrid -----------------------------------------------------------------------------------------------------


def sendgrid_headers(private: ec.EllipticCurvePrivateKey, at: datetime, body: bytes) -> dict[str, str]:
    timestamp = str(int(at.timestamp()))
    return {
        SENDGRID_SIGNATURE_HEADER: sendgrid_signature(private, timestamp, body),
        SENDGRID_TIMESTAMP_HEADER: timestamp,
    }


def test_sendgrid_and_its_own_library_agree_on_what_is_proved() -> None:
    private, public = sendgrid_key()
    headers = sendgrid_headers(private, NOW, BODY)
    verifier = SendGridVerifier(public, clock)
    theirs = EventWebhook(public)

    def theirs_accepts(body: bytes) -> bool:
        return bool(
            theirs.verify_signature(
                body.decode("utf-8", "surrogateescape").encode("utf-8", "replace").decode(),
                headers[SENDGRID_SIGNATURE_HEADER],
                headers[SENDGRID_TIMESTAMP_HEADER],
            )
        )

    assert theirs_accepts(BODY)
    assert verify(verifier, headers, BODY) == Proof()
    for flipped in flips(BODY):
        assert refused(verifier, headers, flipped)
        assert not theirs_accepts(flipped)


def test_sendgrid_times_outside_the_window_are_refused() -> None:
    private, public = sendgrid_key()
    verifier = SendGridVerifier(public, clock)
    assert verify(verifier, sendgrid_headers(private, NOW - timedelta(hours=24), BODY), BODY)
    for at in (NOW - timedelta(hours=26), NOW + timedelta(hours=1)):
        assert refused(verifier, sendgrid_headers(private, at, BODY), BODY)


@pytest.mark.parametrize("header", [SENDGRID_SIGNATURE_HEADER, SENDGRID_TIMESTAMP_HEADER])
@pytest.mark.parametrize("value", ["", "***", "12 34", "-1", "١٢٣"])
def test_sendgrid_with_odd_headers_is_refused(header: str, value: str) -> None:
    private, public = sendgrid_key()
    headers = {**sendgrid_headers(private, NOW, BODY), header: value}
    assert refused(SendGridVerifier(public, clock), headers, BODY)


def test_a_sendgrid_key_of_another_kind_is_a_wrong_setting() -> None:
    der = (
        rsa.generate_private_key(65537, 2048)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    for key in ("not a key", base64.b64encode(der).decode()):
        with pytest.raises(ConfigurationError):
            SendGridVerifier(key, clock)


# --- Postmark -----------------------------------------------------------------------------------------------------


def basic(credentials: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}


def test_postmark_is_accepted_with_its_credentials_and_no_others() -> None:
    verifier = BasicAuthVerifier("hook:new-pass")
    assert verify(verifier, basic("hook:new-pass"), BODY) == Proof()
    for headers in ({}, basic("hook:old-pass"), basic("hook:new-pass "), {"authorization": "Bearer x"}, basic("")):
        assert refused(verifier, headers, BODY)
    assert refused(verifier, {"authorization": "Basic ***"}, BODY)
    with pytest.raises(ConfigurationError):
        BasicAuthVerifier("no-colon")


# --- Mailgun ------------------------------------------------------------------------------------------------------


def mailgun_body(key: str, at: datetime, token: str = "t" * 50, event: str = "delivered") -> bytes:
    timestamp = str(int(at.timestamp()))
    signature = mailgun_signature(key, timestamp, token)
    return json.dumps(
        {
            "signature": {"timestamp": timestamp, "token": token, "signature": signature},
            "event-data": {"event": event},
        }
    ).encode()


def test_mailgun_is_accepted_and_refused_with_another_key_or_an_old_time() -> None:
    verifier = MailgunVerifier("signing-key", clock)
    assert verify(verifier, {}, mailgun_body("signing-key", NOW)) == Proof()
    assert refused(verifier, {}, mailgun_body("another-key", NOW))
    assert refused(verifier, {}, mailgun_body("signing-key", NOW - timedelta(hours=10)))
    assert refused(verifier, {}, mailgun_body("signing-key", NOW + timedelta(hours=1)))


def test_a_mailgun_token_is_bound_to_the_first_body_that_was_proved_under_it() -> None:
    verifier = MailgunVerifier("signing-key", clock)
    body = mailgun_body("signing-key", NOW)
    forged = mailgun_body("signing-key", NOW, event="complained")
    verify(verifier, {}, body)
    verify(verifier, {}, body)  # not durable yet: a retry is no replay
    assert verify(verifier, {}, body) == Proof()
    assert refused(verifier, {}, forged)


def test_mailgun_remembers_a_bounded_number_of_tokens() -> None:
    verifier = MailgunVerifier("signing-key", clock, maximum_tokens=2)
    for token in ("a", "b", "c"):
        verify(verifier, {}, mailgun_body("signing-key", NOW, token * 50))
    assert refused(verifier, {}, mailgun_body("signing-key", NOW, "c" * 50, "opened"))
    assert not refused(verifier, {}, mailgun_body("signing-key", NOW, "a" * 50, "opened"))


def test_a_body_with_a_byte_that_is_no_utf_8_is_proved_by_its_bytes() -> None:
    """A diagnostic in Latin-1: the published packages sign and check texts alone."""
    verifier = StandardWebhooksVerifier(standard_webhooks_key(SECRET))
    body = b'{"reason": "bo\xeete pleine"}'
    now = int(datetime.now(UTC).timestamp())
    signature = base64.b64encode(
        hmac.digest(standard_webhooks_key(SECRET), f"msg_1.{now}.".encode() + body, "sha256")
    ).decode()
    headers = {"svix-id": "msg_1", "svix-timestamp": str(now), "svix-signature": f"v1,AAAA v2,x v1,{signature}"}
    assert verify(verifier, headers, body) == Proof("msg_1")
    assert refused(verifier, headers, body.replace(b"\xee", b"\xef"))
    assert refused(verifier, {**headers, "svix-timestamp": str(now - 301)}, body)
    for odd in ("inf", "nan", "1e400", "x", str(10**30), "-1e18"):
        assert refused(verifier, {**headers, "svix-timestamp": odd}, body)
    mailgun = MailgunVerifier("signing-key", clock)
    latin = mailgun_body("signing-key", NOW, event="caf?").replace(b"caf?", b"caf\xe9")
    assert verify(mailgun, {}, latin) == Proof()


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"signature": {"timestamp": 1}}', b"\xff"])
def test_a_mailgun_body_without_a_proof_is_refused(body: bytes) -> None:
    assert refused(MailgunVerifier("signing-key", clock), {}, body)


# --- SNS ----------------------------------------------------------------------------------------------------------


@dataclass
class Sns:
    """SNS as the test plays it: a certificate, and what was fetched."""

    key: rsa.RSAPrivateKey
    certificate: bytes
    fetched: list[str] = field(default_factory=list)
    is_down: bool = False

    async def fetch(self, address: str) -> bytes:
        self.fetched.append(address)
        if self.is_down:
            raise PartUnavailableError("SNS did not answer")
        return self.certificate

    def message(self, version: str = "2", **fields: Any) -> dict[str, Any]:
        message: dict[str, Any] = {
            "Type": "Notification",
            "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
            "TopicArn": TOPIC,
            "Subject": "Amazon SES Email Event Notification",
            "Message": '{"eventType":"Send"}',
            "Timestamp": "2026-06-01T11:59:30.000Z",
            "SignatureVersion": version,
            "SigningCertURL": CERTIFICATE_URL,
            **fields,
        }
        message = {name: value for name, value in message.items() if value is not None}
        algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
        signature = self.key.sign(sns_canonical_string(message), padding.PKCS1v15(), algorithm)
        return {**message, "Signature": base64.b64encode(signature).decode()}

    def confirmation(self, **fields: Any) -> dict[str, Any]:
        return self.message(
            **{
                "Type": "SubscriptionConfirmation",
                "Subject": None,
                "Token": "2336412f37",
                "Message": "You have chosen to subscribe to the topic",
                "SubscribeURL": "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription"
                f"&TopicArn={TOPIC}&Token=2336412f37",
                **fields,
            }
        )

    def verifier(self, **changes: Any) -> SnsVerifier:
        return SnsVerifier(**{"topic_arns": (TOPIC,), "fetch": self.fetch, "clock": clock, **changes})


@pytest.fixture(scope="module")
def signing() -> tuple[rsa.RSAPrivateKey, bytes]:
    return sns_certificate(NOW)


@pytest.fixture
def sns(signing: tuple[rsa.RSAPrivateKey, bytes]) -> Sns:
    return Sns(*signing)


def encode(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode()


def test_the_canonical_string_is_the_documented_one() -> None:
    message = {
        "Type": "Notification",
        "MessageId": "m",
        "TopicArn": "t",
        "Message": "line one\nline two",
        "Timestamp": "2012-05-02T00:54:06.655Z",
    }
    assert sns_canonical_string(message) == (
        b"Message\nline one\nline two\nMessageId\nm\n"
        b"Timestamp\n2012-05-02T00:54:06.655Z\nTopicArn\nt\nType\nNotification\n"
    )
    assert b"Subject\ns\nTimestamp" in sns_canonical_string({**message, "Subject": "s"})


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", ["Amazon SES Email Event Notification", None])
def test_an_sns_message_is_accepted_with_either_signature_version(sns: Sns, version: str, subject: str | None) -> None:
    message = sns.message(version, Subject=subject)
    assert verify(sns.verifier(), {}, encode(message)) == Proof(message["MessageId"])


def test_any_changed_field_of_an_sns_message_is_refused(sns: Sns) -> None:
    message = sns.message()
    for name in ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type", "Signature"):
        for changed in flips(message[name].encode(), 8):
            assert refused(sns.verifier(), {}, encode({**message, name: changed.decode("latin-1")})), name
    assert refused(sns.verifier(), {}, encode({**message, "SignatureVersion": "1"}))
    assert refused(sns.verifier(), {}, encode({**message, "SignatureVersion": "3"}))


def test_an_sns_certificate_is_fetched_once_and_few_are_kept(sns: Sns) -> None:
    verifier = sns.verifier(maximum_certificates=2)
    urls = [CERTIFICATE_URL.replace("f3ecfb", f"{index:06d}") for index in range(3)]
    for url in [urls[0], urls[0], urls[1], urls[2], urls[0]]:
        verify(verifier, {}, encode(sns.message(SigningCertURL=url)))
    assert sns.fetched == [urls[0], urls[1], urls[2], urls[0]]


@pytest.mark.parametrize(
    "url",
    [
        "http://sns.us-east-1.amazonaws.com/SimpleNotificationService-f3.pem",
        "Https://sns.us-east-1.amazonaws.com/SimpleNotificationService-f3.pem",
        "https://sns.us-east-1.amazonaws.com.evil.example/SimpleNotificationService-f3.pem",
        "https://evil.example/SimpleNotificationService-f3.pem",
        "https://sns.us-east-1.amazonaws.com@evil.example/SimpleNotificationService-f3.pem",
        "https://user@sns.us-east-1.amazonaws.com/SimpleNotificationService-f3.pem",
        "https://sns.us-east-1.amazonaws.com:8443/SimpleNotificationService-f3.pem",
        "https://sns.eu-west-1.amazonaws.com/SimpleNotificationService-f3.pem",
        "https://sns.us-east-1.amazonaws.com/../SimpleNotificationService-f3.pem",
        "https://sns.us-east-1.amazonaws.com/other.pem",
        "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-f3.pem?x=1",
        "https://s3.us-east-1.amazonaws.com/SimpleNotificationService-f3.pem",
        "https://[::1/SimpleNotificationService-f3.pem",
        "https://sns.us-east-1.amazonaws.com/Simple\tNotificationService-f3.pem",
        "https://sns.us-east-1.amazonaws.com/\nSimpleNotificationService-f3.pem",
        f"{CERTIFICATE_URL}\n",
        f"\t{CERTIFICATE_URL}",
        "file:///etc/passwd",
    ],
)
def test_nothing_is_fetched_from_any_other_address_than_a_certificate_of_sns(sns: Sns, url: str) -> None:
    assert refused(sns.verifier(), {}, encode(sns.message(SigningCertURL=url)))
    assert sns.fetched == []


def test_nothing_is_fetched_for_a_topic_that_is_not_allowed(sns: Sns) -> None:
    for topic in ("arn:aws:sns:us-east-1:999999999999:ses-events", TOPIC + "x"):
        assert refused(sns.verifier(), {}, encode(sns.message(TopicArn=topic)))
    assert sns.fetched == []


def test_an_old_sns_message_is_refused_and_one_retried_for_an_hour_is_not(sns: Sns) -> None:
    assert refused(sns.verifier(), {}, encode(sns.message(Timestamp="2026-06-01T09:00:00.000Z")))
    assert not refused(sns.verifier(), {}, encode(sns.message(Timestamp="2026-06-01T10:55:00.000Z")))


def test_a_certificate_out_of_its_time_is_refused(sns: Sns) -> None:
    late = NOW + timedelta(days=2)
    message = sns.message(Timestamp="2026-06-03T12:00:00.000Z")
    assert refused(sns.verifier(clock=lambda: late), {}, encode(message))


def test_a_certificate_that_cannot_be_fetched_now_is_no_refusal(sns: Sns) -> None:
    sns.is_down = True
    with pytest.raises(PartUnavailableError):
        verify(sns.verifier(), {}, encode(sns.message()))


def test_what_is_no_certificate_is_refused(sns: Sns) -> None:
    sns.certificate = b"<html>"
    assert refused(sns.verifier(), {}, encode(sns.message()))


def test_a_subscription_of_an_allowed_topic_is_confirmed_and_not_kept(sns: Sns) -> None:
    message = sns.confirmation()
    proof = verify(sns.verifier(), {}, encode(message))
    assert not proof.keep
    assert sns.fetched == [CERTIFICATE_URL, message["SubscribeURL"]]


@pytest.mark.parametrize(
    "url",
    [
        "https://evil.example/?Action=ConfirmSubscription&TopicArn=" + TOPIC,
        "https://sns.us-east-1.amazonaws.com/?Action=DeleteTopic&TopicArn=" + TOPIC,
        "https://sns.us-east-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + TOPIC + "x",
        "https://sns.eu-west-1.amazonaws.com/?Action=ConfirmSubscription&TopicArn=" + TOPIC,
    ],
)
def test_even_a_signed_subscription_is_confirmed_on_sns_alone(sns: Sns, url: str) -> None:
    assert refused(sns.verifier(), {}, encode(sns.confirmation(SubscribeURL=url)))
    assert sns.fetched == [CERTIFICATE_URL]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"Type": "Notification"}', b"\xff"])
def test_a_body_that_is_no_sns_message_is_refused(sns: Sns, body: bytes) -> None:
    assert refused(sns.verifier(), {}, body)


# --- accounts -----------------------------------------------------------------------------------------------------


async def no_fetch(address: str) -> bytes:
    raise AssertionError("nothing may be fetched")


def test_only_an_account_with_its_setting_may_send() -> None:
    variables = {
        "EMAIL_PLATFORM_RESEND_ACME_WEBHOOK_SECRET": SECRET,
        "EMAIL_PLATFORM_SES_WEBHOOK_TOPIC_ARNS": f"{TOPIC}, {TOPIC}2",
        "EMAIL_PLATFORM_POSTMARK_WEBHOOK_CREDENTIALS": "hook:pass",
        "EMAIL_PLATFORM_MAILGUN_WEBHOOK_SIGNING_KEY": "k",
        "EMAIL_PLATFORM_SENDGRID_WEBHOOK_PUBLIC_KEY": sendgrid_key()[1],
        "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": "plain",
    }
    accounts = WebhookAccounts(variables, no_fetch, clock)
    found = {
        (provider, account)
        for provider in ("ses", "sendgrid", "postmark", "resend", "mailgun", "simulator", "other", "")
        for account in ("default", "acme", "../x", "", "a" * 100)
        if accounts.find(provider, account) is not None
    }
    defaults = {(name, "default") for name in ("ses", "sendgrid", "postmark", "mailgun", "simulator")}
    assert found == defaults | {("resend", "acme")}
    assert accounts.find("resend", "acme") is accounts.find("resend", "acme")
    assert "plain" not in repr(accounts)


Request = tuple[Mapping[str, str], bytes]


def _standard(secret: str) -> Request:
    now = datetime.now(UTC)
    return standard_headers("svix", "msg_1", now, Webhook(secret).sign("msg_1", now, BODY.decode())), BODY


def _genuine_and_forged(sns: Sns) -> dict[str, tuple[str, Request, str, Request]]:
    """Of each provider: the account's setting, a request that it proves, another setting, and one that that one proves.

    SES has no secret: its second setting is empty, and its second request is changed.
    """
    (private, public), (other_private, other_public) = sendgrid_key(), sendgrid_key()
    message, another = sns.message(), "whsec_" + base64.b64encode(b"another").decode()
    standard = (SECRET, _standard(SECRET), another, _standard(another))
    return {
        "simulator": standard,
        "resend": standard,
        "sendgrid": (
            public,
            (sendgrid_headers(private, NOW, BODY), BODY),
            other_public,
            (sendgrid_headers(other_private, NOW, BODY), BODY),
        ),
        "postmark": ("hook:pass", (basic("hook:pass"), BODY), "hook:other", (basic("hook:other"), BODY)),
        "mailgun": ("a-key", ({}, mailgun_body("a-key", NOW)), "b-key", ({}, mailgun_body("b-key", NOW))),
        "ses": (TOPIC, ({}, encode(message)), "", ({}, encode({**message, "Message": "forged"}))),
    }


def _verifier(sns: Sns, provider: str, setting: str) -> Verifier:
    variables = {webhook_variable(provider, "default"): setting}
    verifier = WebhookAccounts(variables, sns.fetch, clock).find(provider, "default")
    assert verifier is not None
    return verifier


def test_every_known_provider_has_a_format_and_a_proof(sns: Sns) -> None:
    assert set(provider_names()) <= set(FORMATS)
    assert set(_genuine_and_forged(sns)) == set(provider_names())


@pytest.mark.parametrize("provider", provider_names())
def test_an_account_s_own_requests_are_accepted_and_forged_ones_refused(sns: Sns, provider: str) -> None:
    setting, genuine, _, forged = _genuine_and_forged(sns)[provider]
    verifier = _verifier(sns, provider, setting)
    assert not refused(verifier, *genuine)
    assert refused(verifier, *forged)


@pytest.mark.parametrize("provider", sorted(set(provider_names()) - {"ses"}))
def test_while_a_secret_is_replaced_the_old_one_and_the_new_one_are_valid(sns: Sns, provider: str) -> None:
    old, by_old, new, by_new = _genuine_and_forged(sns)[provider]
    both = _verifier(sns, provider, f"{new} {old}")
    assert not refused(both, *by_new)
    assert not refused(both, *by_old)
    assert refused(_verifier(sns, provider, new), *by_old), "and the old one no longer, once it is taken away"
    assert refused(both, *_spoilt(provider, by_new))


def _spoilt(provider: str, request: Request) -> Request:
    """The request with its proof spoilt."""
    headers, body = request
    if provider == "mailgun":
        document = json.loads(body)
        document["signature"]["signature"] = "0" * 64
        return headers, json.dumps(document).encode()
    return ({**headers, "authorization": basic("no:body")["authorization"]} if provider == "postmark" else headers), (
        body if provider == "postmark" else body + b" "
    )


def test_public_keys_in_pem_are_told_apart_by_their_borders(sns: Sns) -> None:
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    pem = [
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
        for key in keys
    ]
    verifier = _verifier(sns, "sendgrid", "\n".join(pem))
    assert [refused(verifier, sendgrid_headers(key, NOW, BODY), BODY) for key in keys] == [False, False]


def test_a_wrong_setting_is_named_and_its_value_is_not() -> None:
    variable = webhook_variable("sendgrid", "my-account")
    accounts = WebhookAccounts({variable: "secret-value"}, no_fetch, clock)
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_SENDGRID_MY_ACCOUNT_WEBHOOK_PUBLIC_KEY") as caught:
        accounts.find("sendgrid", "my-account")
    assert "secret-value" not in str(caught.value)


@pytest.mark.parametrize("character", ["\t", "\n", "\r", " ", "\x00", "\u00e9", "\u200b"])
@pytest.mark.parametrize("place", [0, 5, 20, -4])
def test_an_address_with_a_character_that_none_has_is_refused_and_never_fetched(
    sns: Sns, character: str, place: int
) -> None:
    url = CERTIFICATE_URL[:place] + character + CERTIFICATE_URL[place:]
    with pytest.raises(WebhookRefusedError, match="SigningCertURL"):
        verify(sns.verifier(), {}, encode(sns.message(SigningCertURL=url)))
    assert sns.fetched == []


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"x-amz-sns-rawdelivery": "true"}, b'{"anything": 1}'),
        ({}, b'{"eventType": "Bounce", "mail": {}}'),
        ({}, b'{"notificationType": "Bounce", "mail": {}}'),
    ],
)
def test_raw_delivery_is_refused_with_the_setting_to_change(sns: Sns, headers: dict[str, str], body: bytes) -> None:
    with pytest.raises(WebhookRefusedError, match="set RawMessageDelivery to false on the SNS subscription"):
        verify(sns.verifier(), headers, body)


def test_the_end_of_a_subscription_is_kept_so_that_an_operator_hears_of_it(sns: Sns) -> None:
    body = encode(sns.confirmation(Type="UnsubscribeConfirmation"))
    assert verify(sns.verifier(), {}, body).keep
    assert len(sns.fetched) == 1, "the certificate alone"


# --- fuzzing ------------------------------------------------------------------------------------------------------

_texts = st.text(max_size=40) | st.sampled_from(["", "\x00", "1" * 400, "nan", "inf", "-1", "\ud800", "v1,", ",", "é"])
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=6,
)
_header_texts = st.text(st.characters(codec="latin-1"), max_size=60) | _texts.filter(str.isascii)


@cache
def _sendgrid_public_key() -> str:
    _, public = sendgrid_key()
    return public


_BASE64 = st.binary(max_size=80).map(lambda raw: base64.b64encode(raw).decode())


def _never_raises_anything_else(verifier: Verifier, headers: Mapping[str, str], body: bytes) -> None:
    with suppress(WebhookRefusedError, MalformedEventError, PartUnavailableError):
        verify(verifier, headers, body)
        raise AssertionError("nothing that was made up is proved")


@settings(deadline=None, max_examples=150)
@given(
    names=st.dictionaries(
        st.sampled_from(["svix-id", "svix-timestamp", "svix-signature", "webhook-id", "webhook-timestamp"]),
        _header_texts | _BASE64.map("v1,{}".format) | st.just(str(int(datetime.now(UTC).timestamp()))),
    ),
    body=st.binary(max_size=60),
)
def test_no_request_makes_the_verifier_of_standard_webhooks_fail(names: dict[str, str], body: bytes) -> None:
    _never_raises_anything_else(StandardWebhooksVerifier(b"key-of-the-test"), names, body)


@settings(deadline=None, max_examples=150)
@given(
    signature=_header_texts | _BASE64,
    timestamp=_header_texts | st.integers(0, 10**13).map(str),
    body=st.binary(max_size=60),
)
def test_no_request_makes_the_verifier_of_sendgrid_fail(signature: str, timestamp: str, body: bytes) -> None:
    headers = {SENDGRID_SIGNATURE_HEADER: signature, SENDGRID_TIMESTAMP_HEADER: timestamp}
    _never_raises_anything_else(SendGridVerifier(_sendgrid_public_key(), clock), headers, body)


@settings(deadline=None, max_examples=150)
@given(header=_header_texts | _BASE64.map("Basic {}".format), body=st.binary(max_size=20))
def test_no_request_makes_the_verifier_of_postmark_fail(header: str, body: bytes) -> None:
    _never_raises_anything_else(BasicAuthVerifier("user:password"), {"authorization": header}, body)


@settings(deadline=None, max_examples=150)
@given(
    signature=st.dictionaries(st.sampled_from(["timestamp", "token", "signature"]), _values | st.just("1" * 10)),
    raw=st.binary(max_size=40),
    is_raw=st.booleans(),
)
def test_no_request_makes_the_verifier_of_mailgun_fail(signature: Any, raw: bytes, is_raw: bool) -> None:
    body = raw if is_raw else json.dumps({"signature": signature, "event-data": {}}).encode()
    _never_raises_anything_else(MailgunVerifier("key", clock), {}, body)


@settings(
    deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    fields=st.dictionaries(
        st.sampled_from(
            [
                *("Type", "MessageId", "Subject", "Timestamp", "TopicArn", "Message"),
                *("Signature", "SignatureVersion", "SigningCertURL"),
            ]
        ),
        _values | _BASE64 | st.sampled_from([TOPIC, CERTIFICATE_URL, "1", "2", "SubscriptionConfirmation"]),
    ),
    certificate=st.sampled_from([None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]),
)
def test_no_request_makes_the_verifier_of_sns_fail(sns: Sns, fields: dict[str, Any], certificate: bytes | None) -> None:
    message = sns.message()
    document = {**message, **fields}
    assume(document != message)

    async def fetch(address: str) -> bytes:
        return sns.certificate if certificate is None else certificate

    _never_raises_anything_else(sns.verifier(fetch=fetch), {}, encode(document))
