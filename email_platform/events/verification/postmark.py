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
        scheme, _, encoded = header(headers, "authorization").partition(" ")
        if scheme.lower() != "basic":
            raise WebhookRefusedError("basic authentication is required")
        # Digests have one length, so the comparison's time does not show the password's length.
        given = hashlib.sha256(decoded(encoded.strip(), "authorization")).digest()
        matches = [hmac.compare_digest(given, expected) for expected in self._expected]
        if not any(matches):
            raise WebhookRefusedError("the credentials do not match")
        return Proof()
