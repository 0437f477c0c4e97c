"""Postmark: HTTP basic authentication.

Invariant: as in `email_platform.events.verification.proof`.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

from email_platform.errors import ConfigurationError, WebhookRefusedError
from email_platform.events.verification.proof import Proof, decoded, header


class BasicAuthVerifier:
    """HTTP basic authentication: Postmark signs nothing, so only TLS protects the body.

    Args:
        credentials: ``user:password``.

    Raises:
        ConfigurationError: they have no colon.
    """

    def __init__(self, credentials: str) -> None:
        self._expected = hashlib.sha256(credentials.encode()).digest()
        if ":" not in credentials:
            raise ConfigurationError("basic authentication needs user:password")

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`."""
        scheme, _, encoded = header(headers, "authorization").partition(" ")
        if scheme.lower() != "basic":
            raise WebhookRefusedError("basic authentication is required")
        # Digests have one length, so the comparison's time does not show the password's length.
        given = hashlib.sha256(decoded(encoded.strip(), "authorization")).digest()
        if not hmac.compare_digest(given, self._expected):
            raise WebhookRefusedError("the credentials do not match")
        return Proof()
