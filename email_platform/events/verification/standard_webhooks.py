"""Resend and the simulator: Svix, Standard Webhooks.

Invariant: as in `email_platform.events.verification.proof`.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime

from standardwebhooks import Webhook, WebhookVerificationError

from email_platform.errors import WebhookRefusedError
from email_platform.events.verification.proof import Proof, header


class StandardWebhooksVerifier:
    """Svix and Standard Webhooks, by the standard's own package, which allows five minutes either way.

    Both sign each attempt again, so the short window loses nothing.

    Args:
        key: the secret's bytes, as `email_platform.events.accounts.standard_webhooks_key` reads it.
    """

    def __init__(self, key: bytes) -> None:
        self._webhook = Webhook(key)
        self._key = key

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`."""
        prefix = "svix" if "svix-id" in headers else "webhook"
        names = ("id", "timestamp", "signature")
        given = {f"webhook-{name}": header(headers, f"{prefix}-{name}") for name in names}
        try:
            # The dot separates what is signed: an id with a dot could move the borders.
            if "." in given["webhook-id"] or not given["webhook-timestamp"].isascii():
                raise WebhookVerificationError
            self._verify(given, body)
        except (WebhookVerificationError, ValueError):  # ValueError: not base64, no comma
            raise WebhookRefusedError("the signature does not match, or its time is out of the window") from None
        return Proof(given["webhook-id"])

    def _verify(self, given: Mapping[str, str], body: bytes) -> None:
        try:
            readable = body.decode()
        except UnicodeDecodeError:
            self._verify_bytes(given, body)
        else:
            self._webhook.verify(readable, dict(given), json_parse=False)

    def _verify_bytes(self, given: Mapping[str, str], body: bytes) -> None:
        """The package takes only text, but a diagnostic may hold a Latin-1 byte, and the signature is over bytes."""
        identifier = given["webhook-id"]
        try:
            signed_at = datetime.fromtimestamp(float(given["webhook-timestamp"]), UTC)
        except (OverflowError, OSError):
            raise WebhookVerificationError from None
        probe = self._webhook.sign(identifier, signed_at, "")
        self._webhook.verify("", {**given, "webhook-signature": probe}, json_parse=False)  # its check of the time
        signed = f"{identifier}.{int(signed_at.timestamp())}.".encode() + body
        expected = hmac.digest(self._key, signed, "sha256")
        for version, _, signature in (one.partition(",") for one in given["webhook-signature"].split(" ")):
            if version == "v1" and hmac.compare_digest(base64.b64decode(signature), expected):
                return
        raise WebhookVerificationError
