"""The call ledger: what was intended, what is known, and what is not, one record per provider call.

Invariant: a call is made only after its intent is durable under the chunk's present lease epoch, and a
recipient's outcome is only what a durable receipt says. Everything else is derived: staged objects,
completeness, the campaign's status.

    (no record) ──intent──▶ intent ──receipt──▶ accepted | rejected            final
                   ▲           │
                   │           ├─ certainly not accepted ─▶ planned            will be tried again
                   │           └─ no answer ──────────────▶ unknown            same key again, or the policy
                   └──────────── planned, unknown (retry) ◀─┘                  unknown ─▶ accepted | abandoned

A call that was never attempted has no record: planning costs no write, so the ledger's row writes stay at
two per call (intent, receipt), 1/25 of the recipients at 50 recipients a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Protocol
from uuid import UUID

from email_platform.ports import RecipientResult

CallState = Literal["planned", "intent", "accepted", "rejected", "unknown", "abandoned"]
UnknownDecision = Literal["abandon", "resend"]
FINAL_STATES: frozenset[CallState] = frozenset({"accepted", "rejected", "abandoned"})

LeftOut = Mapping[int, str]
"""Offset and reason of the recipients of a call's span who were suppressed before its first intent: in no request."""
SUPPRESSED_CODE = "suppressed"


def left_out_result(reason: str) -> RecipientResult:
    """What became of a recipient who was left out: refused by us, in the words of a provider's refusal."""
    return RecipientResult("rejected", "", SUPPRESSED_CODE, f"{reason}: suppressed after the audience was frozen")


@dataclass(frozen=True, slots=True)
class CallReceipt:
    """The provider's answer to one call: one result per recipient, in the call's order."""

    results: tuple[RecipientResult, ...]

    def to_json(self) -> dict[str, Any]:
        """Compact form for the ledger: ids in order ("" for a refused recipient) and refusals by offset."""
        return {
            "ids": [result.provider_message_id for result in self.results],
            "rejected": {
                str(offset): [result.error_code, result.error_message]
                for offset, result in enumerate(self.results)
                if result.status == "rejected"
            },
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CallReceipt:
        """The inverse of `to_json`."""
        rejected = document["rejected"]
        return cls(
            tuple(
                RecipientResult("rejected", "", *rejected[str(offset)])
                if str(offset) in rejected
                else RecipientResult("accepted", provider_message_id)
                for offset, provider_message_id in enumerate(document["ids"])
            )
        )

    @classmethod
    def all_rejected(cls, recipient_count: int, code: str, message: str) -> CallReceipt:
        """The receipt of a call that was refused as a whole."""
        return cls((RecipientResult("rejected", "", code, message),) * recipient_count)

    def with_left_out(self, left_out: LeftOut) -> CallReceipt:
        """The receipt of the whole span: the answer's results in order, and those left out in their places."""
        if not left_out:
            return self
        answered = iter(self.results)
        span = range(len(self.results) + len(left_out))
        return CallReceipt(
            tuple(left_out_result(left_out[offset]) if offset in left_out else next(answered) for offset in span)
        )


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to send one chunk, until another process takes the next epoch."""

    campaign_id: int
    chunk_index: int
    epoch: int
    holder: str


@dataclass(frozen=True, slots=True)
class CallIntent:
    """A call about to be made: everything needed to recognise it later.

    Attributes:
        first_position: position in the manifest of its first recipient.
        recipient_count: recipients of the span, those left out included.
        body_sha256: hash of the exact request; a retry with another hash is refused.
        left_out: decided before the first attempt that may be accepted, and kept for its repeats.
    """

    call_index: int
    call_id: UUID
    first_position: int
    recipient_count: int
    body_sha256: bytes
    left_out: LeftOut = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CallOutcome:
    """What became of an attempt.

    Attributes:
        state: ``accepted``/``rejected`` with a receipt, ``planned`` (certainly not accepted) or ``unknown``.
        error: one line for the operator, without addresses or secrets.
    """

    call_index: int
    state: Literal["planned", "accepted", "rejected", "unknown"]
    receipt: CallReceipt | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One row of ``send_call``.

    Attributes:
        lease_epoch: under which the last attempt was intended.
        intent_at: when the first attempt that may have been accepted was intended; its key's age.
    """

    call_index: int
    call_id: UUID
    state: CallState
    first_position: int
    recipient_count: int
    body_sha256: bytes
    lease_epoch: int
    attempts: int
    intent_at: datetime
    receipt_at: datetime | None
    receipt: CallReceipt | None
    error: str | None
    left_out: LeftOut = field(default_factory=dict)

    @property
    def asked_count(self) -> int:
        """Recipients that the request names."""
        return self.recipient_count - len(self.left_out)


@dataclass(frozen=True, slots=True)
class CampaignTotals:
    """Recipients of one campaign by what the ledger knows of them, and how far its chunks are.

    Attributes:
        rejected: refused by the provider, or by us: suppressed after the audience was frozen.
        in_call: recipients of calls with an intent and no answer yet (a process is at it, or died at it).
        calls_by_state: number of calls, by state.
        chunks_finished: chunks in which every call has reached an end.
    """

    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    abandoned: int = 0
    planned: int = 0
    in_call: int = 0
    calls_by_state: Mapping[str, int] = field(default_factory=dict)
    chunks: int = 0
    chunks_finished: int = 0

    @property
    def attempted(self) -> int:
        """Recipients whose call was made or is being made."""
        return self.accepted + self.rejected + self.unknown + self.abandoned + self.in_call


class CallLedger(Protocol):
    """Durable store of leases and calls. Every method is one transaction."""

    def take_lease(self, campaign_id: int, chunk_index: int, holder: str) -> Lease | None:
        """Take the next epoch of the chunk, or return None while another holder's lease is still valid."""
        ...

    def calls(self, campaign_id: int, chunk_index: int) -> Sequence[CallRecord]:
        """Every recorded call of the chunk, by call index."""
        ...

    def turn(self, lease: Lease, outcomes: Sequence[CallOutcome], intents: Sequence[CallIntent]) -> None:
        """Record the outcomes, then the intents, in one commit; renews the lease.

        An acceptance is recorded even by a process that has lost its lease (it is the truth whoever brings
        it); a refusal or failure counts only while no later epoch has tried. A final state is never
        overwritten. Intents need the lease and a campaign in ``sending``.

        Raises:
            LeaseLostError: outcomes are recorded, intents are not.
            CampaignStoppedError: likewise, because the campaign is not in ``sending``.
        """
        ...

    def finish_chunk(self, lease: Lease) -> None:
        """Mark the chunk finished and let the lease go.

        Raises:
            LeaseLostError: another process has taken the chunk over.
        """
        ...

    def release_lease(self, lease: Lease) -> None:
        """Let the lease go without finishing; does nothing where it is lost already."""
        ...

    def chunk_is_finished(self, campaign_id: int, chunk_index: int) -> bool:
        """Whether every call of the chunk has reached an end."""
        ...

    def totals(self, campaign_id: int) -> CampaignTotals:
        """Recipients and calls of the campaign by state."""
        ...

    def unknown_calls(self, campaign_id: int) -> Sequence[tuple[int, CallRecord]]:
        """Chunk index and record of every call without an answer that nobody is making now."""
        ...

    def decide_unknown(self, campaign_id: int, decision: UnknownDecision, chunk_index: int | None = None) -> int:
        """Apply an operator's decision to the campaign's unknown calls (of one chunk); returns how many.

        ``abandon`` ends them; ``resend`` makes them planned and their chunks unfinished, so that the next run
        sends them.
        """
        ...
