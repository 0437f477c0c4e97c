"""Mailgun: HMAC-SHA256 over timestamp and token, which lie in the body.

Invariant: as in `email_platform.events.verification.proof`; and one token proves one body.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections import OrderedDict
from collections.abc import Mapping

from email_platform.domain.ports import Clock
from email_platform.errors import WebhookRefusedError
from email_platform.events.formats.reading import as_object, parse_json, text, time_from_epoch
from email_platform.events.verification.proof import Proof, ReplayWindow

# "Mailgun will retry POSTing for 8 hours"; a retry keeps its token.
MAILGUN_WINDOW = ReplayWindow(past_seconds=9 * 3600)
MAXIMUM_TOKENS = 200_000


class MailgunVerifier:
    """HMAC over timestamp and token, which both lie in the body and do not cover the event.

    So a captured signature could carry a forged event: a token is bound to the first body that is proved under it,
    before anything waits: of several that come at once, one is taken. The same body again (a retry whose answer was
    lost, or that could not be stored) is accepted and deduplicated by its event id; another body under a known token
    is refused. Tokens are remembered per process: behind several receivers a token could be used once with each.

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
        self._spend(token, hashlib.sha256(body).digest())
        return Proof()

    def _spend(self, token: str, body: bytes) -> None:
        if not hmac.compare_digest(self._bodies_by_token.setdefault(token, body), body):
            raise WebhookRefusedError("the token was used for another body")
        while len(self._bodies_by_token) > self._maximum_tokens:
            self._bodies_by_token.popitem(last=False)

    def _signature(self, body: bytes) -> tuple[str, str, str]:
        signature = as_object(as_object(parse_json(body), "$").get("signature"), "signature")
        timestamp, token, given = (text(signature, name, "signature.") for name in ("timestamp", "token", "signature"))
        # Mailgun's timestamp has ten digits and its token fifty: other forms could move the border between them.
        if not re.fullmatch(r"[0-9]{10}", timestamp) or not 16 <= len(token) <= 128:
            raise WebhookRefusedError("signature.timestamp or signature.token has another form than Mailgun's")
        return timestamp, token, given
