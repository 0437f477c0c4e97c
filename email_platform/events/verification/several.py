"""One of several proofs is enough: while a secret is replaced, the old one and the new one are both valid.

Invariant: as in `email_platform.events.verification.proof`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from email_platform.errors import WebhookRefusedError
from email_platform.events.verification.proof import Proof, Verifier


class AnyOfVerifier:
    """Takes what one of these verifiers takes; refuses with the first one's reason.

    Args:
        verifiers: of one account, the newest secret first; not empty.
    """

    def __init__(self, verifiers: Sequence[Verifier]) -> None:
        self._first, *self._others = verifiers

    async def verify(self, headers: Mapping[str, str], body: bytes) -> Proof:
        """See `Verifier`."""
        try:
            return await self._first.verify(headers, body)
        except WebhookRefusedError as refused:
            for verifier in self._others:
                try:
                    return await verifier.verify(headers, body)
                except WebhookRefusedError:
                    continue
            raise refused from None
