"""SendGrid: ECDSA over the timestamp header and the raw body.

Invariant: as in `email_platform.events.verification.proof`.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_public_key

from email_platform.domain.ports import Clock
from email_platform.errors import ConfigurationError, WebhookRefusedError
from email_platform.events.formats.reading import time_from_epoch
from email_platform.events.verification.proof import Proof, ReplayWindow, decoded, header

SENDGRID_SIGNATURE_HEADER = "x-twilio-email-event-webhook-signature"
SENDGRID_TIMESTAMP_HEADER = "x-twilio-email-event-webhook-timestamp"
# "SendGrid will retry the POST request until it gets a 2xx or the maximum time of 24 hours"; whether a retry
# is signed again is not documented.
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
        signature = decoded(header(headers, SENDGRID_SIGNATURE_HEADER), SENDGRID_SIGNATURE_HEADER)
        timestamp = header(headers, SENDGRID_TIMESTAMP_HEADER)
        if not re.fullmatch(r"[0-9]{1,12}", timestamp):
            raise WebhookRefusedError(f"{SENDGRID_TIMESTAMP_HEADER} is no time")
        try:
            self._key.verify(signature, timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature:
            raise WebhookRefusedError("the signature does not match") from None
        self._window.check(time_from_epoch(timestamp, SENDGRID_TIMESTAMP_HEADER), self._clock())
        return Proof()
