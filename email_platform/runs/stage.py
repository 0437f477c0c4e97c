"""Stages what the ledger knows of one chunk.

Invariant: the last object written for a chunk holds what is known of it, whoever wrote it; nobody who was erased since
a process read the manifest comes back into an object.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from email_platform.domain.manifest import Manifest
from email_platform.runs.parts import Parts
from email_platform.sending.call_outcome import after_proof
from email_platform.sending.ledger import CallRecord, Proof
from email_platform.staging.delivery_objects import stage_deliveries


def stage_chunk(
    parts: Parts, manifest: Manifest, chunk_index: int, recipients: pa.Table, proofs: Sequence[Proof] = ()
) -> str | None:
    """Stage what the ledger knows of the chunk; returns the object's key, None where nothing was attempted.

    Two processes may stage one chunk at once (an orphan, events that prove a call). Each looks at the ledger again
    after it has written, so that the last object written holds what is known, whoever wrote it.

    Args:
        parts: the outside world.
        manifest: the frozen audience.
        chunk_index: which chunk of it.
        recipients: its rows.
        proofs: what events have proved and the ledger is about to learn.
    """
    recipients = _without_erased(parts, recipients)
    proofs_by_call = {proof.call_index: proof for proof in proofs if proof.chunk_index == chunk_index}

    def proved(record: CallRecord) -> CallRecord:
        proof = proofs_by_call.get(record.call_index)
        return (after_proof(record, proof, parts.clock()) if proof else None) or record

    def knowledge() -> tuple[Sequence[CallRecord], bool]:
        finished = parts.ledger.chunk_is_finished(manifest.campaign_id, chunk_index)
        return parts.ledger.calls(manifest.campaign_id, chunk_index), finished

    records, finished = knowledge()
    while True:
        staged = stage_deliveries(
            manifest,
            chunk_index,
            recipients,
            [proved(record) for record in records],
            parts.store,
            parts.register,
            finished=finished,
        )
        known, (records, finished) = (records, finished), knowledge()
        if known == (records, finished):
            return staged.key if staged else None


def _without_erased(parts: Parts, recipients: pa.Table) -> pa.Table:
    """The rows with a pseudonym for whoever was erased since they were read."""
    if parts.erased.is_empty():
        return recipients
    addresses = recipients["email"].to_pylist()
    found = parts.erased.pseudonyms(set(addresses))
    if not found:
        return recipients
    place = recipients.schema.get_field_index("email")
    column = pa.array([found.get(one, one) for one in addresses], pa.string())
    return recipients.set_column(place, recipients.schema.field(place), column)
