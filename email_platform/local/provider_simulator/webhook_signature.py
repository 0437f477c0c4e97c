"""Signatures of webhooks as in Standard Webhooks (and Svix): HMAC-SHA256 over ``id.timestamp.body``.

The invariant: the bytes that are signed are the bytes that are sent.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from email_platform.errors import ConfigurationError

_PREFIX = "whsec_"


def signing_key(secret: str) -> bytes:
    """Return the key of a secret: ``whsec_`` and base64 as in the standard, or any other text as its UTF-8.

    Raises:
        ConfigurationError: the secret is empty or not base64 behind its prefix; it is not repeated.
    """
    if not secret.startswith(_PREFIX):
        key = secret.encode()
    else:
        try:
            key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
        except binascii.Error:
            # `from None`: the cause's text may repeat a part of the secret.
            raise ConfigurationError("the webhook secret must be base64 behind whsec_") from None
    if not key:
        raise ConfigurationError("the webhook secret is empty")
    return key


def signed_headers(key: bytes, webhook_id: str, timestamp_seconds: int, body: bytes) -> dict[str, str]:
    """Return the three headers that prove ``body`` came from the holder of ``key``."""
    signed = f"{webhook_id}.{timestamp_seconds}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp_seconds),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
