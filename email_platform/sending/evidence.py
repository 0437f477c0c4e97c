"""What provider events prove of calls that have no answer.

Invariant: a recipient goes from unknown to accepted only where an event about its own message, or a provider that
accepts whole calls, proves it. A call that answers per recipient proves nothing about its other recipients: the
provider may have refused them one by one, so they stay unknown and are never sent again unasked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from email_platform.domain.ports import RecipientResult
from email_platform.sending.ledger import CallRecord, Proof
from email_platform.sending.receipt import CallReceipt


def known_so_far(record: CallRecord) -> CallReceipt:
    """What is known of each recipient of a call without an answer."""
    if record.receipt is not None:
        return record.receipt
    return CallReceipt((RecipientResult("unknown"),) * record.recipient_count)


def unknown_of(record: CallRecord, messages: Sequence[UUID]) -> list[UUID]:
    """The message ids, of the call's in order, of whom nothing is known."""
    results = known_so_far(record).results
    return [message for message, known in zip(messages, results, strict=True) if known.status == "unknown"]


def proof_from(
    chunk_index: int,
    record: CallRecord,
    messages: Sequence[UUID],
    evidence: Mapping[UUID, str],
    *,
    whole_calls: bool,
) -> Proof | None:
    """The proof that the evidence makes for this call, or None where it adds nothing.

    Args:
        chunk_index: the call's chunk.
        record: a call without an answer.
        messages: its recipients' message ids, in the call's order.
        evidence: by message id, the provider's message id as an event has it; "" where it has none.
        whole_calls: the provider accepts or refuses a call as a whole (`ProviderLimits.accepts_whole_calls`).
    """
    if not any(message in evidence for message in unknown_of(record, messages)):
        return None
    results = tuple(
        RecipientResult("accepted", evidence.get(message, ""))
        if known.status == "unknown" and (whole_calls or message in evidence)
        else known
        for message, known in zip(messages, known_so_far(record).results, strict=True)
    )
    return Proof(chunk_index, record.call_index, record.attempts, record.receipt, CallReceipt(results))
