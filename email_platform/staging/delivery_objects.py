"""Turns a chunk's receipts into one immutable Parquet object, and remembers what is staged and loaded.

Invariant: the object's rows follow from the manifest and the ledger alone; staging the same knowledge twice
gives the same bytes, so a crash between upload and registration costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from itertools import pairwise
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from email_platform.domain.identity import message_id_texts
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import ObjectStore, StagedObject
from email_platform.domain.storage_layout import deliveries_key
from email_platform.sending.ledger import DEFERRED_CODE_PREFIX, CallRecord
from email_platform.staging.delivery_rows import DELIVERY_SCHEMA, DeliveryStatus, delivery_version


class StagingRegister(Protocol):
    """Which objects are staged, and which content of each the warehouse holds."""

    def record(self, staged: StagedObject, campaign_id: int | None) -> None:
        """Remember the object; a new content of a known key is to be loaded again."""
        ...

    def registered(self, keys: Collection[str]) -> Mapping[str, StagedObject]:
        """What is known under these keys; keys of which nothing is known are left out."""
        ...

    def adopt(self, found: Sequence[tuple[StagedObject, int | None]], seen: Mapping[str, StagedObject]) -> None:
        """Remember objects that were found in the bucket, with their campaigns, in one transaction.

        Only where the register has not changed since the objects were read: content that was recorded
        meanwhile is newer.

        Args:
            found: what lies in the bucket.
            seen: `registered` before that was read.
        """
        ...

    def unloaded(self, campaign_id: int | None = None, limit: int = 1000) -> Sequence[StagedObject]:
        """Objects whose present content is not loaded and not quarantined, the oldest first."""
        ...

    def of_campaign(self, campaign_id: int) -> Sequence[StagedObject]:
        """Every registered object of the campaign, loaded, quarantined or neither, by key."""
        ...

    def mark_loaded(self, staged: StagedObject, loaded_rows: int) -> None:
        """Remember that the warehouse holds this content."""
        ...

    def mark_all_loaded(self, loaded: Sequence[tuple[StagedObject, int]]) -> None:
        """Remember the same of many objects and their rows, in one transaction."""
        ...

    def quarantine(self, staged: StagedObject, reason: str) -> None:
        """Set the object aside: it is not offered for loading again until its content changes."""
        ...

    def staged_rows(self, campaign_id: int) -> dict[str, tuple[int, int]]:
        """By kind: rows staged, and rows of them that are loaded."""
        ...

    def known(self) -> Mapping[str, StagedObject]:
        """Every registered object by its key, loaded or not."""
        ...

    def waiting_objects(self, waiting_seconds: float) -> int:
        """How many objects have waited for so long to be loaded."""
        ...

    def objects_due(self, waiting_seconds: float) -> int:
        """How many objects should be loaded now.

        Those that have waited for so long, and all of campaigns whose sending is over: nothing will be added to them.
        """
        ...

    def last_change_at(self) -> datetime | None:
        """When the warehouse was last loaded or a campaign last started or ended; None before the first."""
        ...


def delivery_table(
    manifest: Manifest,
    chunk_index: int,
    recipients: pa.Table,
    records: Sequence[CallRecord],
    *,
    finished: bool,
) -> pa.Table:
    """One row per recipient of whom something is known or a call is open, in position order.

    No row: recipients of calls in ``planned``, and deferred ones of a chunk that is not finished. They were
    certainly not accepted and will be tried again.

    Args:
        manifest: the frozen audience.
        chunk_index: which chunk of it.
        recipients: the chunk's rows of the manifest (`manifest.ELIGIBLE_SCHEMA`).
        records: the chunk's calls, by call index.
        finished: the chunk is finished, so that nobody deferred will be tried again.
    """
    offsets: list[int] = []
    outcomes: list[tuple[DeliveryStatus, str, str, str]] = []
    calls: list[tuple[int, str, int, int]] = []  # index, id, time, version
    for record, those in _last_calls(records, chunk_index * manifest.chunk_rows):
        occurred_at_ms = int((record.receipt_at or record.intent_at).timestamp() * 1000)
        call_id, follows = str(record.call_id), record.follows is not None
        versions: dict[DeliveryStatus, int] = {}
        for offset, nth in those:
            outcome = _outcome(record, nth, finished=finished)
            if outcome is None:
                continue
            status = outcome[0]
            if status not in versions:
                versions[status] = delivery_version(status, occurred_at_ms, follows_refusal=follows)
            offsets.append(offset)
            outcomes.append(outcome)
            calls.append((record.call_index, call_id, occurred_at_ms, versions[status]))
    rows = len(offsets)
    known = recipients.select(["lead_id", "email"]).take(pa.array(offsets, pa.int64()))
    columns: dict[str, Any] = {
        "lead_id": known["lead_id"],
        "email": known["email"],
        "message_id": message_id_texts(manifest.campaign_id, known["lead_id"].to_pylist()),
        **_columns(_OUTCOME_COLUMNS, outcomes),
        **_columns(_CALL_COLUMNS, calls),
    }
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
        else columns[field.name]
        if isinstance(columns[field.name], pa.ChunkedArray)
        else pa.array(columns[field.name], field.type)
        for field in DELIVERY_SCHEMA
    ]
    table = pa.Table.from_arrays(arrays, schema=DELIVERY_SCHEMA)
    if any(later < earlier for earlier, later in pairwise(offsets)):
        table = table.take(pc.sort_indices(pa.array(offsets, pa.int64())))
    return table


_OUTCOME_COLUMNS = ("status", "provider_message_id", "error_code", "error_message")
_CALL_COLUMNS = ("call_index", "call_id", "occurred_at", "version")


def _columns(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> dict[str, Sequence[Any]]:
    return dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())


def _last_calls(
    records: Sequence[CallRecord], chunk_first_position: int
) -> Iterator[tuple[CallRecord, list[tuple[int, int]]]]:
    """Each call with those of its recipients for whom no later call counts: offset in the chunk, place in the call."""
    of_calls = [record.offsets_in_chunk(chunk_first_position) for record in records]
    last = {offset: index for index, offsets in enumerate(of_calls) for offset in offsets}
    for index, (record, offsets) in enumerate(zip(records, of_calls, strict=True)):
        yield record, [(offset, nth) for nth, offset in enumerate(offsets) if last[offset] == index]


def _outcome(record: CallRecord, nth: int, *, finished: bool) -> tuple[DeliveryStatus, str, str, str] | None:
    """Status, provider id, error code and message of a call's n-th recipient; None where it will be tried again."""
    status: DeliveryStatus
    result = record.receipt.results[nth] if record.receipt is not None else None
    if result is None or result.status == "unknown":
        if record.state == "planned":
            return None
        status = "abandoned" if record.state == "abandoned" else "unknown"
        code, message = (result.error_code, result.error_message) if result is not None else ("", "")
        return status, "", code, message or record.error or ""
    if result.status != "deferred":
        return result.status, result.provider_message_id, result.error_code, result.error_message
    if not finished:
        return None
    status = "unknown" if record.after_unknown else "rejected"
    return status, "", DEFERRED_CODE_PREFIX + result.error_code, result.error_message


def stage_deliveries(
    manifest: Manifest,
    chunk_index: int,
    recipients: pa.Table,
    records: Sequence[CallRecord],
    store: ObjectStore,
    register: StagingRegister,
    *,
    finished: bool,
) -> StagedObject | None:
    """Write and register the chunk's deliveries; None where nothing was ever attempted.

    Idempotent: the key follows from campaign and chunk, the content from the ledger.
    """
    table = delivery_table(manifest, chunk_index, recipients, records, finished=finished)
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
