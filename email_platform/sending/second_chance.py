"""Recipients whose refusal is certain, put back so that a follow-up call sends to them.

Invariant: a recipient who may have been accepted at any time, or who must not be mailed, never comes back. A record
after an attempt of unknown outcome is left alone, and so are suppressed recipients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from email_platform.domain.ports import RecipientResult
from email_platform.sending.ledger import DEFERRED_CODE_PREFIX, SUPPRESSED_CODE, CallRecord
from email_platform.sending.receipt import CallReceipt
from email_platform.sending.recipients import deferred_recipients


@dataclass(frozen=True, slots=True)
class PutBack:
    """What becomes of one chunk's records.

    Attributes:
        records: those that change.
        recipients: how many are sent to again.
    """

    records: tuple[CallRecord, ...]
    recipients: int


def put_back(
    records: Sequence[CallRecord], chunk_first_position: int, code: str | None = None, *, finished: bool
) -> PutBack:
    """Defer the recipients of a chunk who were refused for certain, with all their tries ahead of them.

    Args:
        records: every call of a chunk in which no process is at work, by call index.
        chunk_first_position: of the chunk in the manifest.
        code: only those with this code, as the reports show it; ``deferred:…`` for those whose tries ran out.
        finished: the chunk is, so that a deferred recipient's tries ran out; otherwise he waits for the next one.
    """
    last = {
        offset: (record.call_index, nth)
        for record in records
        for nth, offset in enumerate(record.offsets_in_chunk(chunk_first_position))
    }
    once_in_doubt = {
        offset for record in records if record.after_unknown for offset in record.offsets_in_chunk(chunk_first_position)
    }
    given_up = set(deferred_recipients(records, chunk_first_position)) if finished else set()
    of_index = {record.call_index: record for record in records}
    chosen: set[int] = set()
    for offset, (index, nth) in last.items():
        receipt = of_index[index].receipt
        if receipt is None or offset in once_in_doubt or of_index[index].state not in ("accepted", "rejected"):
            continue
        if _may_come_back(receipt.result(nth), code, given_up=offset in given_up):
            chosen.add(offset)
    changed = []
    for record in records:
        offsets = record.offsets_in_chunk(chunk_first_position)
        if record.receipt is None or chosen.isdisjoint(offsets):
            continue
        results = tuple(
            _again(result, is_last=last[offset] == (record.call_index, nth)) if offset in chosen else result
            for nth, (offset, result) in enumerate(zip(offsets, record.receipt.results, strict=True))
        )
        changed.append(replace(record, receipt=CallReceipt(results)))
    return PutBack(tuple(changed), len(chosen))


def _may_come_back(result: RecipientResult, code: str | None, *, given_up: bool) -> bool:
    if result.status == "deferred":
        return given_up and code in (None, DEFERRED_CODE_PREFIX + result.error_code)
    if result.status != "rejected" or result.error_code == SUPPRESSED_CODE:
        return False
    return code in (None, result.error_code)


def _again(result: RecipientResult, *, is_last: bool) -> RecipientResult:
    """The result as one that counts as no try: the last one waits for a follow-up call, the earlier ones stay so."""
    if result.status == "deferred" or is_last:
        return replace(result, status="deferred", account_refused=True)
    return result
