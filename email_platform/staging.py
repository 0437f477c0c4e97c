"""Turns a chunk's receipts into one immutable Parquet object, and remembers what is staged and loaded.

Invariant: the object's rows follow from the manifest and the ledger alone; staging the same knowledge twice
gives the same bytes, so a crash between upload and registration costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.deliveries import DELIVERY_SCHEMA, DeliveryStatus, delivery_version
from email_platform.identity import message_id
from email_platform.ledger import CallRecord, left_out_result
from email_platform.manifest import Manifest
from email_platform.ports import ObjectStore, StagedObject
from email_platform.storage_layout import deliveries_key


class StagingRegister(Protocol):
    """Which objects are staged, and which content of each the warehouse holds."""

    def record(self, staged: StagedObject, campaign_id: int | None) -> None:
        """Remember the object; a new content of a known key is to be loaded again."""
        ...

    def unloaded(self, campaign_id: int | None = None, limit: int = 1000) -> Sequence[StagedObject]:
        """Objects whose present content is not loaded and not quarantined, the oldest first."""
        ...

    def mark_loaded(self, staged: StagedObject, loaded_rows: int) -> None:
        """Remember that the warehouse holds this content."""
        ...

    def quarantine(self, staged: StagedObject, reason: str) -> None:
        """Set the object aside: it is not offered for loading again until its content changes."""
        ...

    def staged_rows(self, campaign_id: int) -> dict[str, tuple[int, int]]:
        """By kind: rows staged, and rows of them that are loaded."""
        ...

    def waiting_objects(self, waiting_seconds: float) -> int:
        """How many objects have waited for so long to be loaded."""
        ...

    def last_change_at(self) -> datetime | None:
        """When the warehouse was last loaded or a campaign last started or ended; None before the first."""
        ...


def delivery_table(
    manifest: Manifest, chunk_index: int, recipients: pa.Table, records: Sequence[CallRecord]
) -> pa.Table:
    """One row per recipient of a call that was at least intended, in position order.

    Calls in ``planned`` were certainly not accepted and have no row: nothing happened to their recipients.

    Args:
        recipients: the chunk's rows of the manifest (`manifest.ELIGIBLE_SCHEMA`).
        records: the chunk's calls.
    """
    lead_ids: list[int] = recipients.column("lead_id").to_pylist()
    addresses: list[str] = recipients.column("email").to_pylist()
    columns: dict[str, list[Any]] = {name: [] for name in DELIVERY_SCHEMA.names}
    first_of_chunk = chunk_index * manifest.chunk_rows
    for record in records:
        if record.state == "planned":
            continue
        start = record.first_position - first_of_chunk
        count = record.recipient_count
        statuses, provider_ids, codes, messages = _outcomes(record)
        occurred_at = record.receipt_at or record.intent_at
        occurred_at_ms = int(occurred_at.timestamp() * 1000)
        leads = lead_ids[start : start + count]
        columns["lead_id"] += leads
        columns["message_id"] += [str(message_id(manifest.campaign_id, lead_id)) for lead_id in leads]
        columns["email"] += addresses[start : start + count]
        columns["provider_message_id"] += provider_ids
        columns["status"] += statuses
        columns["error_code"] += codes
        columns["error_message"] += messages
        columns["call_index"] += [record.call_index] * count
        columns["call_id"] += [str(record.call_id)] * count
        columns["occurred_at"] += [occurred_at_ms] * count
        columns["version"] += [delivery_version(status, occurred_at_ms) for status in statuses]
    rows = len(columns["lead_id"])
    constants = {
        "campaign_id": manifest.campaign_id,
        "owner_id": manifest.sender.owner_id,
        "sender_id": manifest.sender.sender_id,
        "provider": manifest.sender.provider,
        "chunk_index": chunk_index,
    }
    arrays = [
        pa.repeat(pa.scalar(constants[field.name], field.type), rows)
        if field.name in constants
        else pa.array(columns[field.name], field.type)
        for field in DELIVERY_SCHEMA
    ]
    return pa.Table.from_arrays(arrays, schema=DELIVERY_SCHEMA)


def _outcomes(record: CallRecord) -> tuple[list[DeliveryStatus], list[str], list[str], list[str]]:
    """Status, provider id, error code and message of each recipient of one call."""
    if record.receipt is not None:
        results = record.receipt.results
        return (
            [result.status for result in results],
            [result.provider_message_id for result in results],
            [result.error_code for result in results],
            [result.error_message for result in results],
        )
    status: DeliveryStatus = "abandoned" if record.state == "abandoned" else "unknown"
    count = record.recipient_count
    statuses, codes, messages = [status] * count, [""] * count, [record.error or ""] * count
    for offset, reason in record.left_out.items():  # known, whatever became of the call
        result = left_out_result(reason)
        statuses[offset], codes[offset], messages[offset] = result.status, result.error_code, result.error_message
    return statuses, [""] * count, codes, messages


def stage_deliveries(
    manifest: Manifest,
    chunk_index: int,
    recipients: pa.Table,
    records: Sequence[CallRecord],
    store: ObjectStore,
    register: StagingRegister,
) -> StagedObject | None:
    """Write and register the chunk's deliveries; None where nothing was ever attempted.

    Idempotent: the key follows from campaign and chunk, the content from the ledger.
    """
    table = delivery_table(manifest, chunk_index, recipients, records)
    if table.num_rows == 0:
        return None
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd", row_group_size=table.num_rows)
    body = buffer.getvalue()
    staged = StagedObject(
        key=deliveries_key(manifest.campaign_id, chunk_index),
        kind="delivery",
        rows=table.num_rows,
        content_sha256=sha256(body).hexdigest(),
    )
    store.put(staged.key, body)
    register.record(staged, manifest.campaign_id)
    return staged
