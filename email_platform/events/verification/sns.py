"""SES through SNS: RSA over a canonical string, under a certificate of SNS.

Sources, in the Amazon SNS Developer Guide: "Verifying the signatures of Amazon SNS messages", "Amazon SNS message
delivery retries", "Amazon SNS raw message delivery".

Invariant: as in `email_platform.events.verification.proof`; and an unproved request can make us fetch nothing but
SNS's own certificates.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509 import Certificate, load_pem_x509_certificate

from email_platform.domain.ports import Clock
from email_platform.errors import ConfigurationError, MalformedEventError, WebhookRefusedError
from email_platform.events.formats.reading import as_object, parse_json, text, time_from_iso
from email_platform.events.verification.proof import Proof, ReplayWindow, decoded

# SNS retries an HTTPS endpoint for at most an hour ("Amazon SNS message delivery retries") and keeps the
# time of publication.
SNS_WINDOW = ReplayWindow(past_seconds=2 * 3600)
MAXIMUM_CERTIFICATES = 16

_SNS_HOST = re.compile(r"sns\.([a-z]{2}(?:-[a-z]+){1,3}-\d{1,2})\.amazonaws\.com(?:\.cn)?")
_PRINTABLE = re.compile(r"[!-~]{1,2000}")
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


def _is_bare_record(message: Mapping[str, Any]) -> bool:
    return "Signature" not in message and ("eventType" in message or "notificationType" in message)


def _sns_region(address: str, what: str) -> tuple[str, str]:
    """Region and path of an https address on SNS's own host.

    Raises:
        WebhookRefusedError: the address is any other.
    """
    # `urlsplit` drops tabs and line ends, which the request would still hold.
    if not _PRINTABLE.fullmatch(address):
        raise WebhookRefusedError(f"{what} holds characters that no address has")
    try:
        parts = urlsplit(address)
        host = _SNS_HOST.fullmatch(parts.hostname or "")
        plain = parts.netloc == (parts.hostname or "")  # no user, no port, no upper case
    except ValueError:
        raise WebhookRefusedError(f"{what} is no address") from None
    # `urlsplit` writes the scheme small, and what is fetched is the address as it was given: AWS writes it small.
    if not address.startswith("https://") or host is None or not plain or parts.fragment:
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
        if headers.get("x-amz-sns-rawdelivery", "").lower() == "true" or _is_bare_record(message):
            raise WebhookRefusedError(
                "raw message delivery carries no signature: set RawMessageDelivery to false on the SNS subscription"
            )
        topic_arn = text(message, "TopicArn")
        if topic_arn not in self._topic_arns:
            raise WebhookRefusedError("TopicArn is not allowed")
        version = text(message, "SignatureVersion")
        signature = decoded(text(message, "Signature"), "Signature")
        signed = sns_canonical_string(message)
        # SHA-1 is what SignatureVersion 1 says; SNS topics have it unless they are set to 2.
        algorithm = {"1": hashes.SHA1(), "2": hashes.SHA256()}.get(version)  # noqa: S303
        if algorithm is None:
            raise WebhookRefusedError("SignatureVersion must be 1 or 2")
        certificate = await self._certificate(text(message, "SigningCertURL"), topic_arn)
        now = self._clock()
        if not certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc:
            raise WebhookRefusedError("the signing certificate is not valid now")
        try:
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm):
            raise WebhookRefusedError("the signing certificate's key cannot be read") from None
        if not isinstance(key, rsa.RSAPublicKey):
            raise WebhookRefusedError("the signing certificate has another kind of key")
        try:
            key.verify(signature, signed, padding.PKCS1v15(), algorithm)
        except InvalidSignature:
            raise WebhookRefusedError("the signature does not match") from None
        self._window.check(time_from_iso(message.get("Timestamp"), "Timestamp"), now)
        if message["Type"] == "SubscriptionConfirmation":
            await self._confirm(text(message, "SubscribeURL"), topic_arn)
        return Proof(text(message, "MessageId"), keep=message["Type"] != "SubscriptionConfirmation")

    async def _certificate(self, address: str, topic_arn: str) -> Certificate:
        region, path = _sns_region(address, "SigningCertURL")
        if region != topic_arn.split(":")[3] or not _CERTIFICATE_PATH.fullmatch(path) or "?" in address:
            raise WebhookRefusedError("SigningCertURL is not a certificate of the topic's region")
        if (known := self._certificates.get(address)) is not None:
            self._certificates.move_to_end(address)
            return known
        try:
            certificate = load_pem_x509_certificate(await self._fetch(address))
        except (ValueError, UnsupportedAlgorithm):
            raise WebhookRefusedError("SigningCertURL holds no certificate") from None
        self._certificates[address] = certificate
        while len(self._certificates) > self._maximum_certificates:
            self._certificates.popitem(last=False)
        return certificate

    async def _confirm(self, address: str, topic_arn: str) -> None:
        region, path = _sns_region(address, "SubscribeURL")
        try:
            query = parse_qs(urlsplit(address).query, max_num_fields=20)
        except ValueError:
            raise WebhookRefusedError("SubscribeURL does not confirm this topic") from None
        if (
            region != topic_arn.split(":")[3]
            or path not in ("", "/")
            or query.get("Action") != ["ConfirmSubscription"]
            or query.get("TopicArn") != [topic_arn]
        ):
            raise WebhookRefusedError("SubscribeURL does not confirm this topic")
        await self._fetch(address)
