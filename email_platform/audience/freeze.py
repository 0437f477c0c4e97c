"""Resolves a campaign's audience into its manifest: two Parquet objects with every lead considered.

Invariant: considered = eligible + excluded, counted from what was written; each chunk is exactly one row group
of the eligible object, so reading a chunk reads no other one. Memory is bounded by one chunk, whatever the
audience's size. Nothing here decides that the manifest counts: that is `ManifestStore.freeze`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import IO
from uuid import UUID, uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from email_platform.audience.conditions import parse_condition
from email_platform.audience.source import AudienceSource
from email_platform.domain.campaigns import Campaign
from email_platform.domain.manifest import ELIGIBLE_SCHEMA, EXCLUDED_SCHEMA, EXCLUSION_REASONS, Manifest
from email_platform.domain.ports import Clock, ObjectStore
from email_platform.domain.storage_layout import eligible_key, excluded_key, manifest_prefix
from email_platform.errors import AccountingError

BATCH_ROWS = 5_000  # rows held as Python objects at once, about 1 KB each
EXCLUDED_GROUP_ROWS = 100_000


def resolve_audience(
    campaign: Campaign,
    source: AudienceSource,
    store: ObjectStore,
    clock: Clock,
    *,
    chunk_rows: int,
    call_rows: int,
    on_progress: Callable[[int], None] = lambda _: None,
    new_id: Callable[[], UUID] = uuid4,
) -> Manifest:
    """Write everybody who meets the condition to a fresh manifest, which counts once it is frozen.

    Grain of both objects: one row a lead, in lead_id order. Each call writes under an id of its own, so two
    resolutions of one campaign cannot disturb each other; the loser's objects stay and are referred to by nothing.

    Args:
        campaign: whose condition, sender and content are taken.
        source: the candidates.
        store: where the objects go; they appear whole, or not at all.
        clock: gives ``frozen_at``.
        chunk_rows: eligible leads per row group; the last one may have fewer.
        call_rows: recipients per provider call, kept with the manifest.
        on_progress: called with the number of leads considered so far, once per written row group and at the end.
        new_id: gives the manifest's id.

    Raises:
        InvalidConditionError: before anything is read or written.
        PartUnavailableError: PostgreSQL or the object store went away.
    """
    resolved = source.resolved(campaign.condition)
    condition = parse_condition(resolved)
    manifest_id = new_id()
    prefix = manifest_prefix(campaign.campaign_id, manifest_id)
    considered_rows = 0
    reasons: Counter[str] = Counter()
    with (
        store.writer(eligible_key(prefix)) as eligible_file,
        store.writer(excluded_key(prefix)) as excluded_file,
        _RowGroups(eligible_file, ELIGIBLE_SCHEMA, chunk_rows) as eligible,
        _RowGroups(excluded_file, EXCLUDED_SCHEMA, EXCLUDED_GROUP_ROWS) as excluded,
        source.stream(condition, campaign.sender.sender_id, BATCH_ROWS) as batches,
    ):
        for batch in batches:
            considered_rows += batch.num_rows
            is_eligible = pc.is_null(batch.column("reason"))
            left_out = batch.filter(pc.invert(is_eligible))
            reasons.update(left_out.column("reason").to_pylist())
            written_groups = eligible.add(_eligible_rows(batch.filter(is_eligible), eligible.rows))
            written_groups += excluded.add(_excluded_rows(left_out, campaign.campaign_id))
            if written_groups:
                on_progress(considered_rows)
    on_progress(considered_rows)
    return Manifest(
        campaign_id=campaign.campaign_id,
        manifest_id=manifest_id,
        prefix=prefix,
        eligible_rows=eligible.rows,
        excluded_by_reason={reason: reasons[reason] for reason in EXCLUSION_REASONS},
        chunk_rows=chunk_rows,
        call_rows=call_rows,
        sender=campaign.sender,
        content=campaign.content,
        on_unknown=campaign.on_unknown,
        frozen_at=clock(),
        condition=resolved,
    )


def read_chunk(store: ObjectStore, manifest: Manifest, chunk_index: int) -> pa.Table:
    """The recipients of one chunk, of `ELIGIBLE_SCHEMA`, in position order; reads the footer and one row group.

    Raises:
        IndexError: the manifest has no such chunk.
        AccountingError: the object does not hold what the manifest says.
        FileNotFoundError: the object is gone.
    """
    wanted_rows = manifest.chunk_size_rows(chunk_index)
    key = eligible_key(manifest.prefix)
    # pre_buffer joins the columns' reads into few large ones: a round trip costs more than the bytes.
    with store.reader(key) as file, pq.ParquetFile(file, pre_buffer=True) as parquet:
        groups = parquet.metadata.num_row_groups
        if groups != manifest.chunk_count:
            raise AccountingError(f"{key} has {groups} row groups; its manifest has {manifest.chunk_count} chunks")
        recipients = parquet.read_row_group(chunk_index)
    first_position = chunk_index * manifest.chunk_rows
    positions = recipients.column("position")
    if recipients.num_rows != wanted_rows or positions[0].as_py() != first_position:
        raise AccountingError(
            f"{key} has {recipients.num_rows} rows from position {positions[0].as_py()} in row group {chunk_index}; "
            f"its manifest has {wanted_rows} from {first_position}"
        )
    return recipients


def _eligible_rows(batch: pa.RecordBatch, first_position: int) -> pa.Table:
    positions = pa.array(range(first_position, first_position + batch.num_rows), pa.int64())
    columns = [positions, *(batch.column(name) for name in ELIGIBLE_SCHEMA.names[1:])]
    return pa.Table.from_arrays(columns, schema=ELIGIBLE_SCHEMA)


def _excluded_rows(batch: pa.RecordBatch, campaign_id: int) -> pa.Table:
    campaign = pa.repeat(pa.scalar(campaign_id, pa.int64()), batch.num_rows)
    columns = [campaign, *(batch.column(name) for name in EXCLUDED_SCHEMA.names[1:])]
    return pa.Table.from_arrays(columns, schema=EXCLUDED_SCHEMA)


class _RowGroups:
    """Cuts a stream of rows into Parquet row groups of exactly `group_rows`; the last one may be shorter.

    Attributes:
        rows: rows added so far; after the `with`, rows of the file.
    """

    def __init__(self, file: IO[bytes], schema: pa.Schema, group_rows: int) -> None:
        self.rows = 0
        self._group_rows = group_rows
        self._pending: list[pa.Table] = []
        self._pending_rows = 0
        self._writer = pq.ParquetWriter(file, schema, compression="zstd")

    def __enter__(self) -> _RowGroups:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            if kind is None and self._pending_rows:
                self._write(self._pending_rows)
        finally:
            self._writer.close()  # also after a failure, or the writer would do it when it is collected

    def add(self, table: pa.Table) -> int:
        """Take rows in, write every group that is full, and return how many were."""
        self.rows += table.num_rows
        self._pending.append(table)
        self._pending_rows += table.num_rows
        groups = 0
        while self._pending_rows >= self._group_rows:
            self._write(self._group_rows)
            groups += 1
        return groups

    def _write(self, rows: int) -> None:
        table = pa.concat_tables(self._pending)
        self._writer.write_table(table.slice(0, rows), row_group_size=rows)
        rest = table.slice(rows)
        self._pending, self._pending_rows = [rest], rest.num_rows
