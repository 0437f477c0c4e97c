"""What an Idempotency-Key means (the semantics of Resend: 24 hours, 256 characters).

The invariant: within its lifetime a key accepts at most one payload once, also across a kill: the answer is
stored in the transaction that logs the acceptance, so there is never one without the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

MAXIMUM_KEY_CHARACTERS = 256
DEFAULT_LIFETIME_SECONDS = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The answer that a key got, and the payload that it answered.

    Attributes:
        fingerprint: SHA-256 of the request body's bytes, hexadecimal.
        body: the JSON body of the 200 answer.
        stored_at_ms: milliseconds since the epoch, UTC.
    """

    fingerprint: str
    body: str
    stored_at_ms: int


class KeyDecision(Enum):
    """What to do with a call that carries a key."""

    ACCEPT = "accept"
    REPLAY = "replay"
    OTHER_PAYLOAD = "idempotency_key_reused"
    IN_FLIGHT = "idempotency_in_flight"


def decide_key(
    *,
    in_flight: bool,
    stored: StoredAnswer | None,
    fingerprint: str,
    now_ms: int,
    lifetime_seconds: float = DEFAULT_LIFETIME_SECONDS,
) -> KeyDecision:
    """Return what to do; an answer as old as the lifetime counts as none."""
    if in_flight:
        return KeyDecision.IN_FLIGHT
    if stored is None or now_ms - stored.stored_at_ms >= lifetime_seconds * 1000:
        return KeyDecision.ACCEPT
    return KeyDecision.REPLAY if stored.fingerprint == fingerprint else KeyDecision.OTHER_PAYLOAD
