"""Proves that a webhook comes from the provider account that its path names.

Invariants: nothing is kept, parsed further or acknowledged before it is proved; secrets and digests are
compared in constant time; a refusal's reason names a header or a field, never a value. A replay inside the
window is harmless too, since events are idempotent by (provider, event_id).

The window is as long as the provider may retry the same signed request, where it does not document that it
signs again: refusing a late retry would lose an event that was never stored.

| provider | proof | source |
| --- | --- | --- |
| SES | RSA over a canonical string, certificate from SNS | Verifying the signatures of Amazon SNS messages |
| SendGrid | ECDSA P-256 / SHA-256 over timestamp + body | Getting Started with the Event Webhook Security Features |
| Postmark | HTTP basic authentication | Webhooks overview, "Protecting your webhook" |
| Resend, simulator | HMAC-SHA256 over id.timestamp.body (Svix, Standard Webhooks) | Verify Webhooks Requests |
| Mailgun | HMAC-SHA256 over timestamp + token, in the body | Securing Webhooks |
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key
from cryptography.x509 import Certificate, load_pem_x509_certificate
from standardwebhooks import Webhook, WebhookVerificationError

from email_platform.domain.ports import Clock
from email_platform.errors import ConfigurationError, MalformedEventError, WebhookRefusedError
from email_platform.events.formats.reading import as_object, parse_json, text, time_from_epoch, time_from_iso


@dataclass(frozen=True, slots=True)
class Proof:
    """What a proved request came with.

    Attributes:
        webhook_id: the notification's id where the headers carry one, else empty.
        keep: False for a proved request that holds no event (a confirmed subscription).
    """

    webhook_id: str = ""
    keep: bool = True


class Verifier(Protocol):
    """Proves requests of one account."""

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """Return where the request is proved to come from the account.

        Args:
            headers: with lower-case names.
            body: exactly as received.

        Raises:
            WebhookRefusedError: it is not, or it is a replay.
            MalformedEventError: the proof lies in the body, and the body cannot be read.
            PartUnavailableError: what the proof needs cannot be had now (SNS certificate); try again.
        """
        ...

    def remember(self, body: bytes) -> None:
        """Called after the body became durable, so that a replay is known."""
        ...


@dataclass(frozen=True, slots=True)
class ReplayWindow:
    """How far a signed time may lie from ours.

    Attributes:
        past_seconds: the provider's longest documented retry of one signed request, and some.
        future_seconds: allowance for clocks that differ.
    """

    past_seconds: float
    future_seconds: float = 300.0

    def check(self, signed_at: datetime, now: datetime) -> None:
        """Return where the time lies in the window.

        Raises:
            WebhookRefusedError: it does not.
        """
        age = now - signed_at
        if age > timedelta(seconds=self.past_seconds):
            raise WebhookRefusedError("the signed time is too old")
        if -age > timedelta(seconds=self.future_seconds):
            raise WebhookRefusedError("the signed time lies in the future")


def _decoded(value: str, what: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise WebhookRefusedError(f"{what} is not base64") from None


def _header(headers: Mapping[str, str], name: str) -> str:
    value = headers.get(name, "")
    if not value:
        raise WebhookRefusedError(f"header {name} is missing")
    return value


# --- Resend and the simulator: Svix, Standard Webhooks ----------------------------------------------------------


class StandardWebhooksVerifier:
    """Svix and Standard Webhooks, by the standard's own package, which allows five minutes either way.

    Both sign each attempt anew, so the short window loses nothing.

    Args:
        key: the secret's bytes, as `email_platform.events.accounts.standard_webhooks_key` reads it.
    """

    def __init__(self, key: bytes) -> None:
        self._webhook = Webhook(key)

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`."""
        prefix = "svix" if "svix-id" in headers else "webhook"
        names = ("id", "timestamp", "signature")
        given = {f"webhook-{name}": _header(headers, f"{prefix}-{name}") for name in names}
        try:
            # The dot separates what is signed: an id with a dot could move the borders.
            if "." in given["webhook-id"] or not given["webhook-timestamp"].isascii():
                raise WebhookVerificationError
            self._webhook.verify(body, given, json_parse=False)
        except (WebhookVerificationError, ValueError):  # ValueError: not UTF-8, not base64, no comma
            raise WebhookRefusedError("the signature does not match, or its time is out of the window") from None
        return Proof(given["webhook-id"])

    def remember(self, body: bytes) -> None:
        """Nothing: the id's replay gives the same events."""


# --- SendGrid ------------------------------------------------------------------------------------------------------

SENDGRID_SIGNATURE_HEADER = "x-twilio-email-event-webhook-signature"
SENDGRID_TIMESTAMP_HEADER = "x-twilio-email-event-webhook-timestamp"
# "SendGrid will retry the POST request until it gets a 2xx or the maximum time of 24 hours"; whether a retry
# is signed anew is not documented.
SENDGRID_WINDOW = ReplayWindow(past_seconds=25 * 3600)


class SendGridVerifier:
    """ECDSA over the timestamp header and the raw body.

    Args:
        public_key: the verification key of Mail Settings, base64 DER or PEM.
        clock: the present time.
        window: how old a signed request may be.

    Raises:
        ConfigurationError: the key cannot be read, or is of another kind.
    """

    def __init__(self, public_key: str, clock: Clock, window: ReplayWindow = SENDGRID_WINDOW) -> None:
        self._clock = clock
        self._window = window
        try:
            if "BEGIN" in public_key:
                key = load_pem_public_key(public_key.encode())
            else:
                key = load_der_public_key(base64.b64decode(public_key, validate=True))
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigurationError("the SendGrid verification key cannot be read: copy it as shown") from error
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise ConfigurationError("the SendGrid verification key must be an elliptic-curve key")
        self._key = key

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`."""
        signature = _decoded(_header(headers, SENDGRID_SIGNATURE_HEADER), SENDGRID_SIGNATURE_HEADER)
        timestamp = _header(headers, SENDGRID_TIMESTAMP_HEADER)
        if not re.fullmatch(r"[0-9]{1,12}", timestamp):
            raise WebhookRefusedError(f"{SENDGRID_TIMESTAMP_HEADER} is no time")
        try:
            self._key.verify(signature, timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise WebhookRefusedError("the signature does not match") from None
        self._window.check(time_from_epoch(timestamp, SENDGRID_TIMESTAMP_HEADER), self._clock())
        return Proof()

    def remember(self, body: bytes) -> None:
        """Nothing: every event has an id."""


# --- Postmark ------------------------------------------------------------------------------------------------------


class BasicAuthVerifier:
    """HTTP basic authentication: Postmark signs nothing, so only TLS protects the body.

    Args:
        credentials: ``user:password``; several, separated by spaces, while one is replaced by another.

    Raises:
        ConfigurationError: one has no colon.
    """

    def __init__(self, credentials: str) -> None:
        self._expected = [hashlib.sha256(one.encode()).digest() for one in credentials.split()]
        if not self._expected or not all(":" in one for one in credentials.split()):
            raise ConfigurationError("basic authentication needs user:password")

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`."""
        scheme, _, encoded = _header(headers, "authorization").partition(" ")
        if scheme.lower() != "basic":
            raise WebhookRefusedError("basic authentication is required")
        # Digests have one length, so the comparison's time does not tell the password's length.
        given = hashlib.sha256(_decoded(encoded.strip(), "authorization")).digest()
        matches = [hmac.compare_digest(given, expected) for expected in self._expected]
        if not any(matches):
            raise WebhookRefusedError("the credentials do not match")
        return Proof()

    def remember(self, body: bytes) -> None:
        """Nothing: there is no proof of time."""


# --- Mailgun -------------------------------------------------------------------------------------------------------

# "Mailgun will retry POSTing for 8 hours"; a retry keeps its token.
MAILGUN_WINDOW = ReplayWindow(past_seconds=9 * 3600)
MAXIMUM_TOKENS = 200_000


class MailgunVerifier:
    """HMAC over timestamp and token, which both lie in the body and do not cover the event.

    So a captured signature could carry a forged event: a token is bound to the first body that was stored
    under it. The same body again (a retry whose answer was lost) is accepted and deduplicated by its event
    id; another body under a known token is refused. Tokens are remembered per process: behind several
    receivers a token could be used once with each.

    Args:
        signing_key: the HTTP webhook signing key.
        clock: the present time.
        window: how old a signed request may be.
        maximum_tokens: the oldest are forgotten beyond it.
    """

    def __init__(
        self,
        signing_key: str,
        clock: Clock,
        window: ReplayWindow = MAILGUN_WINDOW,
        maximum_tokens: int = MAXIMUM_TOKENS,
    ) -> None:
        self._key = signing_key.encode()
        self._clock = clock
        self._window = window
        self._maximum_tokens = maximum_tokens
        self._bodies_by_token: OrderedDict[str, bytes] = OrderedDict()

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`."""
        timestamp, token, given = self._signature(body)
        expected = hmac.new(self._key, f"{timestamp}{token}".encode(), hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected.encode(), given.encode()):
            raise WebhookRefusedError("the signature does not match")
        self._window.check(time_from_epoch(timestamp, "signature.timestamp"), self._clock())
        known = self._bodies_by_token.get(token)
        if known is not None and not hmac.compare_digest(known, hashlib.sha256(body).digest()):
            raise WebhookRefusedError("the token was used for another body")
        return Proof()

    def remember(self, body: bytes) -> None:
        """Bind the token to the body that was stored."""
        _, token, _ = self._signature(body)
        self._bodies_by_token.setdefault(token, hashlib.sha256(body).digest())
        while len(self._bodies_by_token) > self._maximum_tokens:
            self._bodies_by_token.popitem(last=False)

    def _signature(self, body: bytes) -> tuple[str, str, str]:
        signature = as_object(as_object(parse_json(body), "$").get("signature"), "signature")
        timestamp, token, given = (text(signature, name, "signature.") for name in ("timestamp", "token", "signature"))
        # Mailgun's timestamp has ten digits and its token fifty: other forms could move the border between them.
        if not re.fullmatch(r"[0-9]{10}", timestamp) or not 16 <= len(token) <= 128:
            raise WebhookRefusedError("signature.timestamp or signature.token has another form than Mailgun's")
        return timestamp, token, given


# --- SES through SNS -------------------------------------------------------------------------------------------------

# SNS retries an HTTPS endpoint for at most an hour ("Amazon SNS message delivery retries") and keeps the
# time of publication.
SNS_WINDOW = ReplayWindow(past_seconds=2 * 3600)
MAXIMUM_CERTIFICATES = 16

_SNS_HOST = re.compile(r"sns\.([a-z]{2}(?:-[a-z]+){1,3}-\d{1,2})\.amazonaws\.com(?:\.cn)?")
_CERTIFICATE_PATH = re.compile(r"/SimpleNotificationService-[0-9A-Za-z]{1,64}\.pem")
_TOPIC_ARN = re.compile(r"arn:aws(?:-[a-z-]+)?:sns:([a-z0-9-]+):\d{12}:[A-Za-z0-9_-]{1,256}(?:\.fifo)?")
_SIGNED_FIELDS: Mapping[str, tuple[str, ...]] = {
    "Notification": ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    "SubscriptionConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    "UnsubscribeConfirmation": ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}

Fetch = Callable[[str], Awaitable[bytes]]
"""GETs an https address without following redirects; PartUnavailableError where it does not answer with 200."""


def sns_canonical_string(message: Mapping[str, Any]) -> bytes:
    """What SNS signs: name and value of each signed field that is present, a line each, in this order."""
    kind = text(message, "Type")
    if kind not in _SIGNED_FIELDS:
        raise WebhookRefusedError("Type is none that SNS signs")
    lines = []
    for name in _SIGNED_FIELDS[kind]:
        if name == "Subject" and message.get(name) is None:
            continue
        value = message.get(name)
        if not isinstance(value, str):
            raise MalformedEventError(f"{name} must be a text")
        lines += [name, value]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")


def _sns_region(address: str, what: str) -> tuple[str, str]:
    """Region and path of an https address on SNS's own host.

    Raises:
        WebhookRefusedError: the address is any other.
    """
    try:
        parts = urlsplit(address)
        host = _SNS_HOST.fullmatch(parts.hostname or "")
        plain = parts.netloc == (parts.hostname or "")  # no user, no port, no upper case
    except ValueError:
        raise WebhookRefusedError(f"{what} is no address") from None
    if parts.scheme != "https" or host is None or not plain or parts.fragment:
        raise WebhookRefusedError(f"{what} is not on sns.<region>.amazonaws.com")
    return host.group(1), parts.path


class SnsVerifier:
    """SNS messages of allowed topics; confirms subscriptions of allowed topics, and of no other.

    The topic is checked before anything is fetched, and the certificate's host must be that of the topic's
    region: an unproved request can make us fetch nothing but SNS's own certificates.

    Args:
        topic_arns: topics that may send.
        fetch: gets certificates and confirms subscriptions.
        clock: the present time.
        window: how old a message may be.
        maximum_certificates: most certificates kept.

    Raises:
        ConfigurationError: an ARN has another form, or there is none.
    """

    def __init__(
        self,
        topic_arns: tuple[str, ...],
        fetch: Fetch,
        clock: Clock,
        window: ReplayWindow = SNS_WINDOW,
        maximum_certificates: int = MAXIMUM_CERTIFICATES,
    ) -> None:
        if not topic_arns or not all(_TOPIC_ARN.fullmatch(arn) for arn in topic_arns):
            raise ConfigurationError("topic ARNs must look like arn:aws:sns:<region>:<account>:<name>")
        self._topic_arns = frozenset(topic_arns)
        self._fetch = fetch
        self._clock = clock
        self._window = window
        self._maximum_certificates = maximum_certificates
        self._certificates: OrderedDict[str, Certificate] = OrderedDict()

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`; a subscription of an allowed topic is confirmed on the way."""
        message = as_object(parse_json(body), "$")
        topic_arn = text(message, "TopicArn")
        if topic_arn not in self._topic_arns:
            raise WebhookRefusedError("TopicArn is not allowed")
        version = text(message, "SignatureVersion")
        signature = _decoded(text(message, "Signature"), "Signature")
        signed = sns_canonical_string(message)
        # SHA-1 is what SignatureVersion 1 says; SNS topics have it unless they are set to 2.
        algorithm = {"1": hashes.SHA1(), "2": hashes.SHA256()}.get(version)  # noqa: S303
        if algorithm is None:
            raise WebhookRefusedError("SignatureVersion must be 1 or 2")
        certificate = await self._certificate(text(message, "SigningCertURL"), topic_arn)
        now = self._clock()
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise WebhookRefusedError("the signing certificate is not valid now")
        key = certificate.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise WebhookRefusedError("the signing certificate has another kind of key")
        try:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        except InvalidSignature:
            raise WebhookRefusedError("the signature does not match") from None
        self._window.check(time_from_iso(message.get("Timestamp"), "Timestamp"), now)
        if message["Type"] == "SubscriptionConfirmation":
            await self._confirm(text(message, "SubscribeURL"), topic_arn)
        return Proof(text(message, "MessageId"), keep=message["Type"] == "Notification")

    def remember(self, body: bytes) -> None:
        """Nothing: the events' ids follow from the content."""

    async def _certificate(self, address: str, topic_arn: str) -> Certificate:
        region, path = _sns_region(address, "SigningCertURL")
        if region != topic_arn.split(":")[3] or not _CERTIFICATE_PATH.fullmatch(path) or "?" in address:
            raise WebhookRefusedError("SigningCertURL is not a certificate of the topic's region")
        if (known := self._certificates.get(address)) is not None:
            self._certificates.move_to_end(address)
            return known
        try:
            certificate = load_pem_x509_certificate(await self._fetch(address))
        except ValueError:
            raise WebhookRefusedError("SigningCertURL holds no certificate") from None
        self._certificates[address] = certificate
        while len(self._certificates) > self._maximum_certificates:
            self._certificates.popitem(last=False)
        return certificate

    async def _confirm(self, address: str, topic_arn: str) -> None:
        region, path = _sns_region(address, "SubscribeURL")
        query = parse_qs(urlsplit(address).query)
        if (
            region != topic_arn.split(":")[3]
            or path not in ("", "/")
            or query.get("Action") != ["ConfirmSubscription"]
            or query.get("TopicArn") != [topic_arn]
        ):
            raise WebhookRefusedError("SubscribeURL does not confirm this topic")
        await self._fetch(address)
