"""What records and answers say of single recipients.

Invariant: nothing here decides about a call; it reads records, or words a result.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from email_platform.domain.ports import RecipientResult
from email_platform.sending.ledger import CONTENT_ERROR_CODE, SUPPRESSED_CODE, CallRecord
from email_platform.sending.receipt import CallReceipt


def left_out_result(reason: str) -> RecipientResult:
    """What became of a recipient who was left out: refused by us, in the words of a provider's refusal."""
    return RecipientResult("rejected", "", SUPPRESSED_CODE, f"{reason}: suppressed after the audience was frozen")


def content_error_result(reason: str) -> RecipientResult:
    """What became of a recipient for whom no message can be made, or none that the provider could take."""
    return RecipientResult("rejected", "", CONTENT_ERROR_CODE, reason)


def in_doubt(results: Iterable[RecipientResult]) -> CallReceipt:
    """Results of an attempt after one of unknown outcome: a recipient refused now may have been accepted then."""
    return CallReceipt(
        replace(result, status="unknown") if result.status == "rejected" else result for result in results
    )


def deferrals(records: Iterable[CallRecord], chunk_first_position: int) -> Counter[int]:
    """How often each recipient was deferred for a reason other than the sender or account, by offset in the chunk."""
    times: Counter[int] = Counter()
    for record in records:
        if record.receipt is not None and record.receipt.count("deferred"):
            offsets = record.offsets_in_chunk(chunk_first_position)
            times.update(
                offsets[place]
                for place, result in record.receipt.others.items()
                if result.status == "deferred" and not result.account_refused
            )
    return times


def deferred_recipients(records: Sequence[CallRecord], chunk_first_position: int) -> list[int]:
    """Offsets of the recipients whom the last call that has them deferred.

    Args:
        records: of one chunk, by call index.
        chunk_first_position: of the chunk in the manifest.
    """
    deferred: set[int] = set()
    for record in records:
        if record.receipt is None or not record.receipt.count("deferred"):
            deferred.difference_update(record.offsets_in_chunk(chunk_first_position))
            continue
        offsets = record.offsets_in_chunk(chunk_first_position)
        for offset, result in zip(offsets, record.receipt.results, strict=True):
            (deferred.add if result.status == "deferred" else deferred.discard)(offset)
    return sorted(deferred)


def deferred_for_themselves(offsets: Sequence[int], receipt: CallReceipt) -> list[int]:
    """Whom an answer deferred for a reason that is neither the account's rate nor the account itself."""
    return [
        offsets[place]
        for place, result in receipt.others.items()
        if result.status == "deferred" and not result.throttled and not result.account_refused
    ]
