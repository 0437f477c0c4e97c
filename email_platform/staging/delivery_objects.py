"""Turns a chunk's receipts into one immutable Parquet object, and remembers what is staged and loaded.

Invariant: the object's rows follow from the manifest and the ledger alone; staging the same knowledge twice
gives the same bytes, so a crash between upload and registration costs nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from itertools import chain, pairwise, repeat
from typing import Any, NamedTuple, Protocol

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
    provider_ids: list[str] = []
    runs: list[_Run] = []
    rows_of_runs: list[int] = []
    for record, those, places in _last_calls(records, chunk_index * manifest.chunk_rows):
        for run, its_places in _runs(record, places, finished=finished):
            runs.append(run)
            rows_of_runs.append(len(its_places))
            if len(its_places) == len(places):
                offsets += those
            else:
                of_place = dict(zip(places, those, strict=True))
                offsets += [of_place[place] for place in its_places]
            if run.status == "accepted" and record.receipt is not None:
                provider_ids += [record.receipt.ids[place] for place in its_places]
            else:
                provider_ids += [""] * len(its_places)
    rows = len(offsets)
    known = recipients.select(["lead_id", "email"]).take(pa.array(offsets, pa.int64()))
    run_of_row = pa.array(chain.from_iterable(map(repeat, range(len(runs)), rows_of_runs)), pa.int64())
    columns: dict[str, Any] = {
        "lead_id": known["lead_id"],
        "email": known["email"],
        "message_id": message_id_texts(manifest.campaign_id, known["lead_id"].to_pylist()),
        "provider_message_id": provider_ids,
        **{
            name: pa.array(of_run, DELIVERY_SCHEMA.field(name).type).take(run_of_row)
            for name, of_run in zip(_Run._fields, zip(*runs, strict=True) if runs else repeat(()), strict=False)
        },
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
        if isinstance(columns[field.name], pa.ChunkedArray | pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in DELIVERY_SCHEMA
    ]
    table = pa.Table.from_arrays(arrays, schema=DELIVERY_SCHEMA)
    if offsets != sorted(offsets):
        table = table.take(pc.sort_indices(pa.array(offsets, pa.int64())))
    return table


class _Run(NamedTuple):
    """What deliveries of neighbours in a call have in common, by column."""

    status: DeliveryStatus
    error_code: str
    error_message: str
    call_index: int
    call_id: str
    occurred_at: int
    version: int


def _runs(record: CallRecord, places: Sequence[int], *, finished: bool) -> Iterator[tuple[_Run, Sequence[int]]]:
    """The deliveries of these places of a call, those with the same outcome together."""
    occurred_at_ms = int((record.receipt_at or record.intent_at).timestamp() * 1000)
    call_id, follows = str(record.call_id), record.follows is not None
    by_outcome: dict[tuple[DeliveryStatus, str, str], list[int]] = {}
    if record.receipt is not None and not record.receipt.others:  # as nearly always
        by_outcome["accepted", "", ""] = list(places)
    else:
        for place in places:
            outcome = _outcome(record, place, finished=finished)
            if outcome is not None:
                by_outcome.setdefault(outcome, []).append(place)
    for (status, code, message), those in by_outcome.items():
        version = delivery_version(status, occurred_at_ms, follows_refusal=follows)
        yield _Run(status, code, message, record.call_index, call_id, occurred_at_ms, version), those


def _last_calls(
    records: Sequence[CallRecord], chunk_first_position: int
) -> Iterator[tuple[CallRecord, Sequence[int], Sequence[int]]]:
    """Each call with those of its recipients for whom no later call counts: offsets in the chunk, places in it."""
    of_calls = [record.offsets_in_chunk(chunk_first_position) for record in records]
    if _are_apart(of_calls):
        for record, offsets in zip(records, of_calls, strict=True):
            yield record, offsets, range(len(offsets))
        return
    last = {offset: index for index, offsets in enumerate(of_calls) for offset in offsets}
    for index, (record, offsets) in enumerate(zip(records, of_calls, strict=True)):
        places = [place for place, offset in enumerate(offsets) if last[offset] == index]
        yield record, [offsets[place] for place in places], places


def _are_apart(of_calls: Sequence[Sequence[int]]) -> bool:
    """Whether it is plain that nobody is in two calls: each has neighbours, as where nobody was sent to again."""
    ranges = sorted((one.start, one.stop) for one in of_calls if isinstance(one, range))
    return len(ranges) == len(of_calls) and all(one[1] <= after[0] for one, after in pairwise(ranges))


def _outcome(record: CallRecord, place: int, *, finished: bool) -> tuple[DeliveryStatus, str, str] | None:
    """Status, error code and message of the recipient at a place of a call; None where it will be tried again."""
    status: DeliveryStatus
    result = record.receipt.result(place) if record.receipt is not None else None
    if result is None or result.status == "unknown":
        if record.state == "planned":
            return None
        status = "abandoned" if record.state == "abandoned" else "unknown"
        code, message = (result.error_code, result.error_message) if result is not None else ("", "")
        return status, code, message or record.error or ""
    if result.status != "deferred":
        return result.status, result.error_code, result.error_message
    if not finished:
        return None
    status = "unknown" if record.after_unknown else "rejected"
    return status, DEFERRED_CODE_PREFIX + result.error_code, result.error_message


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
