"""How far one chunk is: its recipients by outcome.

Invariant: a recipient is counted once, by the last call that has it. A deferred recipient counts when a follow-up call
ends, or when the tries run out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from email_platform.domain.manifest import Manifest
from email_platform.sending.ledger import CallRecord, CallState
from email_platform.sending.receipt import CallReceipt
from email_platform.sending.recipients import deferred_recipients


@dataclass(frozen=True, slots=True)
class ChunkProgress:
    """Recipients of the chunk by outcome so far; ``sent_*`` were called by this process, now.

    Attributes:
        deferred_recipients: how often a recipient was deferred by this process's calls.
    """

    recipients: int
    accepted: int = 0
    rejected: int = 0
    unknown: int = 0
    abandoned: int = 0
    sent_calls: int = 0
    sent_recipients: int = 0
    skipped_calls: int = 0
    retried_calls: int = 0
    deferred_recipients: int = 0

    @property
    def ended(self) -> int:
        """Recipients who have come to an end."""
        return self.accepted + self.rejected + self.unknown + self.abandoned

    def counting(self, state: CallState, recipient_count: int, receipt: CallReceipt | None) -> ChunkProgress:
        """The progress with one call more."""
        nothing_known = recipient_count
        progress = self
        if receipt is not None:
            nothing_known = receipt.count("unknown")
            progress = replace(
                progress,
                accepted=progress.accepted + receipt.count("accepted"),
                rejected=progress.rejected + receipt.count("rejected"),
            )
        if state == "unknown":
            return replace(progress, unknown=progress.unknown + nothing_known)
        if state == "abandoned":
            return replace(progress, abandoned=progress.abandoned + nothing_known)
        return progress

    def skipping(self, record: CallRecord, state: CallState) -> ChunkProgress:
        """The progress with a call that was found at this end in the ledger."""
        counted = self.counting(state, record.recipient_count, record.receipt)
        return replace(counted, skipped_calls=counted.skipped_calls + 1)

    def forgetting_outcomes(self) -> ChunkProgress:
        """What this process did, without what became of the recipients: to be read from the ledger again."""
        return replace(self, accepted=0, rejected=0, unknown=0, abandoned=0, skipped_calls=0)


def progress_of(manifest: Manifest, chunk_index: int, records: Sequence[CallRecord]) -> ChunkProgress:
    """What the ledger says of a finished chunk, in which nothing was sent now."""
    progress = ChunkProgress(manifest.chunk_size_rows(chunk_index))
    for record in records:
        progress = progress.skipping(record, record.state)
    first_position = chunk_index * manifest.chunk_rows
    given_up = set(deferred_recipients(records, first_position))
    doubtful = given_up & {
        offset for record in records if record.after_unknown for offset in record.offsets_in_chunk(first_position)
    }
    return replace(
        progress,
        rejected=progress.rejected + len(given_up - doubtful),
        unknown=progress.unknown + len(doubtful),
    )
