"""How hard one process drives one chunk, and when a call of unknown outcome may be made again.

Invariant: a call that may have been accepted is made again only where its key makes a second acceptance impossible,
or where the campaign's policy accepts a second message.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

from email_platform.domain.campaigns import OnUnknown
from email_platform.domain.ports import ProviderLimits
from email_platform.sending.ledger import CallRecord
from email_platform.sending.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class RejectionLimits:
    """Which share of refused recipients stops a campaign.

    Attributes:
        share: of the recipients with an answer.
        minimum: nothing is concluded from fewer.
    """

    share: float = 0.20
    minimum: int = 200


@dataclass(frozen=True, slots=True)
class DeliveryPolicy:
    """How hard one process drives one chunk.

    Attributes:
        connections: calls in flight at once = the most calls a crash can leave unknown.
        lease_seconds: a holder that shows no sign for so long may be taken over.
        lease_wait_seconds: how long to wait for another holder before giving up.
        ledger_wait_seconds: how long to keep answers in memory for a ledger that is away.
        idempotency_margin: share of the provider's key lifetime after which a key is no longer trusted.
        deferral: how often a recipient is tried whom the provider defers again and again, and the pauses between.
            After the last try the recipient counts as refused, with the provider's code.
    """

    connections: int = 16
    lease_seconds: float = 20.0
    lease_wait_seconds: float = 60.0
    ledger_wait_seconds: float = 120.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    idempotency_margin: float = 0.9
    rejections: RejectionLimits = RejectionLimits()
    deferral: RetryPolicy = field(default_factory=lambda: RetryPolicy(base_seconds=1.0, ceiling_seconds=60.0))


@dataclass(frozen=True, slots=True)
class RepeatRule:
    """What a provider and a campaign allow of a call that may have been accepted.

    Attributes:
        margin: share of the key's lifetime after which it is no longer trusted.
    """

    limits: ProviderLimits
    margin: float
    on_unknown: OnUnknown

    def key_is_honoured(self, record: CallRecord, now: datetime) -> bool:
        """Whether the same key and bytes cannot be accepted a second time."""
        age_seconds = (now - record.intent_at).total_seconds()
        return self.limits.honours_idempotency_keys and age_seconds < self.limits.idempotency_seconds * self.margin

    def allows(self, record: CallRecord, now: datetime) -> bool:
        """Whether a call of unknown outcome may be made again without an operator's word."""
        if self.key_is_honoured(record, now):
            return True
        # Of a call of which some recipients are proved, an operator may have the others sent again, nobody else.
        return self.on_unknown == "resend" and record.receipt is None
