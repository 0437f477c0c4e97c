"""Every webhook verifier: a request that was changed anywhere in what its proof covers is refused, and nothing but a
refusal, an unreadable body or an absent certificate comes out.

An input is headers, an empty line and a body. In both, ``@name@`` stands for what the provider's signer gives for the
target's own body, so the corpus holds no signature and no key.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, partial
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from standardwebhooks import Webhook

from email_platform.errors import MalformedEventError, PartUnavailableError, WebhookRefusedError
from email_platform.events.formats.reading import parse_json
from email_platform.events.verification import (
    SENDGRID_SIGNATURE_HEADER,
    SENDGRID_TIMESTAMP_HEADER,
    BasicAuthVerifier,
    MailgunVerifier,
    SendGridVerifier,
    SnsVerifier,
    StandardWebhooksVerifier,
    Verifier,
    sns_canonical_string,
)
from tests.fakes.webhook_signers import mailgun_signature, sendgrid_key, sendgrid_signature, sns_certificate
from tests.fuzz.mutation import changed_bytes
from tests.fuzz.target import Target

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
KEY = hashlib.sha256(b"a key for the fuzz targets").digest()
CREDENTIALS = "hook:" + KEY.hex()
BODY = b'{"events": [{"recipient": "ann@example.com"}]}'
TOPIC = "arn:aws:sns:us-east-1:123456789012:ses-events"
HOST = "https://sns.us-east-1.amazonaws.com"
CERTIFICATE_URL = f"{HOST}/SimpleNotificationService-f3ecfb7224c7233fe7bb5f59f96de52f.pem"
Stands = Mapping[str, bytes]
FETCHED = re.compile(re.escape(HOST) + r"/(SimpleNotificationService-[0-9A-Za-z]{1,64}\.pem|\?[!-~]*)")


def clock() -> datetime:
    return NOW


def split_request(content: bytes, stands: Stands) -> tuple[dict[str, str], bytes]:
    for name, value in stands.items():
        content = content.replace(b"@" + name.encode() + b"@", value)
    head, _, body = content.partition(b"\n\n")
    lines = (line.partition(b":") for line in head.split(b"\n") if line)
    # As Starlette gives them: names in lower case, both read as Latin-1.
    return {n.decode("latin-1").lower().strip(): v.decode("latin-1").strip() for n, _, v in lines}, body


def accepted(verifier: Verifier, headers: Mapping[str, str], body: bytes) -> bool:
    try:
        asyncio.run(verifier.verify(headers, body))
    except (WebhookRefusedError, MalformedEventError, PartUnavailableError) as refusal:
        assert len(str(refusal)) < 500
        return False
    return True


def standard(content: bytes) -> bool:
    at = datetime.now(UTC)
    signature = Webhook(KEY).sign("msg_1", at, BODY.decode()).encode()
    stands = {"timestamp": str(int(at.timestamp())).encode(), "signature": signature}
    headers, body = split_request(content, stands)
    was_accepted = accepted(StandardWebhooksVerifier(KEY), headers, body)
    if was_accepted:
        assert body == BODY
        assert "msg_1" in (headers.get("svix-id"), headers.get("webhook-id"))
    return was_accepted


@cache
def sendgrid_signing() -> tuple[ec.EllipticCurvePrivateKey, SendGridVerifier]:
    private, public = sendgrid_key()
    return private, SendGridVerifier(public, clock)


def sendgrid(content: bytes) -> bool:
    private, verifier = sendgrid_signing()
    timestamp = str(int(NOW.timestamp()))
    signature = sendgrid_signature(private, timestamp, BODY)
    headers, body = split_request(content, {"timestamp": timestamp.encode(), "signature": signature.encode()})
    was_accepted = accepted(verifier, headers, body)
    if was_accepted:
        assert (headers[SENDGRID_TIMESTAMP_HEADER] + body.decode()) == timestamp + BODY.decode()
    return was_accepted


def postmark(content: bytes) -> bool:
    authorization = base64.b64encode(CREDENTIALS.encode())
    headers, body = split_request(content, {"authorization": authorization})
    was_accepted = accepted(BasicAuthVerifier(CREDENTIALS), headers, body)
    if was_accepted:
        given = headers["authorization"].partition(" ")[2].strip()
        assert base64.b64decode(given) == CREDENTIALS.encode()
    return was_accepted


def mailgun(content: bytes) -> bool:
    timestamp, token = str(int(NOW.timestamp())), "t" * 50
    stands = {"timestamp": timestamp, "token": token, "signature": mailgun_signature(KEY.hex(), timestamp, token)}
    headers, body = split_request(content, {name: value.encode() for name, value in stands.items()})
    verifier = MailgunVerifier(KEY.hex(), clock)
    was_accepted = accepted(verifier, headers, body)
    if was_accepted:
        given = parse_json(body)["signature"]
        assert (given["timestamp"], given["token"]) == (timestamp, token)
        assert not accepted(verifier, headers, body + b" "), "one token proves one body"
    return was_accepted


@cache
def sns_signing() -> tuple[rsa.RSAPrivateKey, bytes]:
    return sns_certificate(NOW)


SNS_COMMON = {
    "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
    "TopicArn": TOPIC,
    "Timestamp": "2026-06-01T11:59:30.000Z",
    "SigningCertURL": CERTIFICATE_URL,
}
SNS_MESSAGES: Sequence[Mapping[str, str]] = (
    {**SNS_COMMON, "Type": "Notification", "SignatureVersion": "2", "Message": '{"eventType":"Send"}'},
    {**SNS_COMMON, "Type": "Notification", "SignatureVersion": "1", "Message": "x", "Subject": "s"},
    {
        **SNS_COMMON,
        "Type": "SubscriptionConfirmation",
        "SignatureVersion": "2",
        "Token": "2336412f37",
        "Message": "You have chosen to subscribe to the topic",
        "SubscribeURL": f"{HOST}/?Action=ConfirmSubscription&TopicArn={TOPIC}&Token=2336412f37",
    },
)


@cache
def sns_signatures() -> Mapping[str, bytes]:
    key = sns_signing()[0]
    return {
        f"signature{number}": base64.b64encode(
            key.sign(
                sns_canonical_string(dict(message)),
                padding.PKCS1v15(),
                hashes.SHA1() if message["SignatureVersion"] == "1" else hashes.SHA256(),
            )
        )
        for number, message in enumerate(SNS_MESSAGES)
    }


def sns(content: bytes) -> bool:
    fetched: list[str] = []

    async def fetch(address: str) -> bytes:
        fetched.append(address)
        if "Confirm" not in address and "f3ecfb" not in address:
            raise PartUnavailableError("no such certificate")
        return sns_signing()[1]

    headers, body = split_request(content, sns_signatures())
    was_accepted = accepted(SnsVerifier((TOPIC,), fetch, clock), headers, body)
    assert all(FETCHED.fullmatch(address) for address in fetched), fetched
    if was_accepted:
        signed = {sns_canonical_string(dict(message)) for message in SNS_MESSAGES}
        assert sns_canonical_string(parse_json(body)) in signed
    return was_accepted


def sns_seed(number: int, message: Mapping[str, str]) -> bytes:
    body: dict[str, Any] = {**message, "Signature": f"@signature{number}@"}
    return b"x-amz-sns-message-type: " + message["Type"].encode() + b"\n\n" + json.dumps(body).encode()


def standard_seed(prefix: str) -> bytes:
    head = f"{prefix}-id: msg_1\n{prefix}-timestamp: @timestamp@\n{prefix}-signature: v1,AAAA @signature@ v2,x"
    return head.encode() + b"\n\n" + BODY


MAILGUN_BODY = {
    "signature": {"timestamp": "@timestamp@", "token": "@token@", "signature": "@signature@"},
    "event-data": {"event": "delivered"},
}
SEEDS: Mapping[str, tuple[Callable[[bytes], bool], Sequence[bytes]]] = {
    "standard": (standard, [standard_seed("svix"), standard_seed("webhook")]),
    "sendgrid": (
        sendgrid,
        [f"{SENDGRID_SIGNATURE_HEADER}: @signature@\n{SENDGRID_TIMESTAMP_HEADER}: @timestamp@\n\n".encode() + BODY],
    ),
    "postmark": (postmark, [b"Authorization: Basic @authorization@\n\n" + BODY]),
    "mailgun": (mailgun, [b"\n\n" + json.dumps(MAILGUN_BODY).encode()]),
    "sns": (sns, [sns_seed(number, message) for number, message in enumerate(SNS_MESSAGES)]),
}


def unchanged_seeds_are_accepted() -> None:
    """The targets would find nothing if their good requests were refused as well."""
    for name, (check, seeds) in SEEDS.items():
        for seed in seeds:
            assert check(seed), f"{name}: the unchanged request is refused"


def only_checked(check: Callable[[bytes], bool], content: bytes) -> None:
    check(content)


TARGETS = [
    Target(f"webhooks-{name}", changed_bytes(seeds), partial(only_checked, check), 200)
    for name, (check, seeds) in SEEDS.items()
]
