"""Copies the old RDS table `email` into S3 and the warehouse, month by month, and proves that both hold the same.

Invariant: after `import_month`, the warehouse's rows of the month equal the source's as of the snapshots that they
were read from, by count and by checksum of every range of ids; and however often, in whatever order and after
whatever death it runs, each old id is one row.

How it works. A month's rows are looked at in ranges of `RANGE_IDS` old ids. Both sides give a fingerprint of each
range: the count, and the sum of a 60-bit checksum per row, which needs no order. Ranges whose fingerprints differ
are copied, each as one Parquet object under a key that follows from month and range; all others are left alone. So
the first import copies everything, a run after a kill goes on where the warehouse ends, and a later run finds what
was changed, added or removed at the source since, without relying on its `updated_at`.

People who were erased are written as their pseudonyms, whatever the source still has of them: their rows stay, the
fingerprints count with the pseudonym, and a range that differs by nothing else is not copied again
(`email_platform.runs.legacy_erasure`).

The source is spared: one range is one short read-only snapshot, followed by a pause that keeps the average under
the configured rows per second; days are counted one at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from email_platform.domain.erasure import ErasedLookup
from email_platform.domain.ports import ObjectStore, StagedObject, Warehouse
from email_platform.domain.storage_layout import legacy_emails_key, legacy_left_key
from email_platform.errors import LegacySourceError
from email_platform.runs.legacy_erasure import without_erased
from email_platform.runs.legacy_table import (
    KEY_COLUMNS,
    LEGACY_EMAIL_SCHEMA,
    NOTHING,
    RANGE_IDS,
    SOURCE_SCHEMA,
    Fingerprint,
    Fingerprints,
    LegacySource,
    LegacyWarehouse,
    Month,
    RangeSnapshot,
    SourceDescription,
    differing_ranges,
)
from email_platform.staging.delivery_objects import StagingRegister


@dataclass(slots=True)
class Throttle:
    """Keeps the average of rows read from the source under a limit, by a pause after each statement."""

    rows_per_second: float
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    paused_seconds: float = 0.0
    _due_at: float = field(default=0.0, init=False)

    def took(self, rows: int) -> None:
        """Pause for as long as these rows may take, less what reading them took already."""
        now = self.monotonic()
        self._due_at = max(self._due_at, now - 1.0) + rows / self.rows_per_second
        pause = self._due_at - now
        if pause > 0:
            self.sleep(pause)
            self.paused_seconds += pause


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What one run did to one month, and the proof.

    Attributes:
        source, warehouse: fingerprints by range, after the run; equal where all is well. The source's are those of its
            rows with pseudonyms in the place of people who were erased.
        copied_ranges, copied_rows: of this run; the other ranges were equal already.
        moved_rows: copied with a range although they are of another month now.
        removed_rows: gone or under another key at the source: marked as deleted.
        erased_rows: of the copied and the compared ranges, rows in which a pseudonym stands for what the source has.
    """

    month: Month
    description: SourceDescription
    source: Fingerprints
    warehouse: Fingerprints
    copied_ranges: int
    copied_rows: int
    moved_rows: int
    removed_rows: int
    erased_rows: int
    copied_bytes: int
    seconds: float
    paused_seconds: float

    def differences(self) -> list[tuple[int, Fingerprint, Fingerprint]]:
        """First id, source and warehouse of every range that differs; must be empty."""
        return [
            (index * RANGE_IDS, self.source.get(index, NOTHING), self.warehouse.get(index, NOTHING))
            for index in differing_ranges(self.source, self.warehouse)
        ]

    @property
    def source_total(self) -> Fingerprint:
        """Of the whole month at the source."""
        return sum(self.source.values(), NOTHING)

    @property
    def warehouse_total(self) -> Fingerprint:
        """Of the whole month in the warehouse."""
        return sum(self.warehouse.values(), NOTHING)


def import_month(
    source: LegacySource,
    store: ObjectStore,
    register: StagingRegister,
    warehouse: Warehouse,
    legacy: LegacyWarehouse,
    month: Month,
    throttle: Throttle,
    erased: ErasedLookup,
    on_range: Callable[[int, int, int], None] = lambda _done, _of, _rows: None,
) -> ImportReport:
    """Make the warehouse's rows of the month equal to the source's; see the module.

    Args:
        source: the old table, or a replica of it.
        store: the staging bucket.
        register: what is staged and loaded.
        warehouse: loads the objects.
        legacy: the warehouse's side of the comparison.
        month: the partition.
        throttle: spares the source.
        erased: who was erased, asked for each batch of rows.
        on_range: called after each copied range: done, of how many, rows copied so far.

    Raises:
        ConfigurationError: people were erased under another key.
        LegacySourceError: the table is not the expected one, or holds a time that the warehouse cannot.
        PartUnavailableError: a part went away; run again.
    """
    began_seconds = throttle.monotonic()
    erased.is_empty()  # without the right key nothing is read
    description = source.describe()
    held = legacy.fingerprints(month)
    # Nothing to compare with: the counts say which ranges there are, and the source is spared the checksums.
    found = _source_fingerprints(source, month, throttle, with_checksums=bool(held))
    erased_rows = _count_in_pseudonyms(source, legacy, month, found, held, throttle, erased)
    to_copy = differing_ranges(found, held)
    copied_rows = moved_rows = removed_rows = copied_bytes = 0
    for done, range_index in enumerate(to_copy, start=1):
        copied = _copy_range(source, store, month, range_index, legacy if range_index in held else None, erased)
        for staged in copied.staged:
            register.record(staged, None)
            register.mark_loaded(staged, warehouse.load(staged))
        found[range_index] = copied.fingerprint
        copied_rows += copied.fingerprint.rows
        moved_rows += copied.moved_rows
        removed_rows += copied.removed_rows
        erased_rows += copied.erased_rows
        copied_bytes += copied.bytes
        on_range(done, len(to_copy), copied_rows)
        throttle.took(copied.fingerprint.rows)
    return ImportReport(
        month=month,
        description=description,
        source={index: fingerprint for index, fingerprint in found.items() if fingerprint.rows},
        warehouse=legacy.fingerprints(month),
        copied_ranges=len(to_copy),
        copied_rows=copied_rows,
        moved_rows=moved_rows,
        removed_rows=removed_rows,
        erased_rows=erased_rows,
        copied_bytes=copied_bytes,
        seconds=throttle.monotonic() - began_seconds,
        paused_seconds=throttle.paused_seconds,
    )


def _source_fingerprints(
    source: LegacySource, month: Month, throttle: Throttle, *, with_checksums: bool
) -> dict[int, Fingerprint]:
    found: dict[int, Fingerprint] = {}
    for start, end in month.days():
        of_day = source.fingerprints(start, end, with_checksums=with_checksums)
        for range_index, fingerprint in of_day.items():
            found[range_index] = found.get(range_index, NOTHING) + fingerprint
        throttle.took(sum(fingerprint.rows for fingerprint in of_day.values()))
    return found


def _count_in_pseudonyms(
    source: LegacySource,
    legacy: LegacyWarehouse,
    month: Month,
    found: dict[int, Fingerprint],
    held: Fingerprints,
    throttle: Throttle,
    erased: ErasedLookup,
) -> int:
    """Where a range differs by pseudonyms alone, have `found` say so, and return in how many rows.

    The warehouse names the rows, the source gives them as they are now. Whatever else was changed meanwhile, there or
    here, leaves the range different, so it is copied.
    """
    differing = set(differing_ranges(found, held)) & found.keys() & held.keys()
    pseudonymous = legacy.pseudonymous_ids(month) if differing else {}
    rows = 0
    for range_index in sorted(differing & pseudonymous.keys()):
        with source.snapshot(month, range_index) as snapshot:
            of_people = snapshot.rows_of(pseudonymous[range_index])
        without = without_erased(of_people, erased)
        if found[range_index] + without.difference == held[range_index]:
            found[range_index] = held[range_index]
            rows += without.rows
        throttle.took(of_people.num_rows)
    return rows


@dataclass(frozen=True, slots=True)
class _CopiedRange:
    staged: tuple[StagedObject, ...]
    fingerprint: Fingerprint
    moved_rows: int
    removed_rows: int
    erased_rows: int
    bytes: int


def _copy_range(
    source: LegacySource,
    store: ObjectStore,
    month: Month,
    range_index: int,
    legacy: LegacyWarehouse | None,
    erased: ErasedLookup,
) -> _CopiedRange:
    """Stage the range's rows as they are now, and the warehouse's rows of it that the source no longer has.

    Args:
        legacy: None where the warehouse has nothing of the range.
    """
    held = legacy.keys(month, range_index) if legacy is not None else _no_keys()
    key = legacy_emails_key(str(month), range_index * RANGE_IDS)
    with store.writer(key) as file:  # outside the snapshot: the upload is none of the source's business
        body = _Measured(file)
        with (
            pq.ParquetWriter(body, LEGACY_EMAIL_SCHEMA, compression="zstd") as parquet,
            source.snapshot(month, range_index) as snapshot,
        ):
            fingerprint = snapshot.fingerprint()
            present: list[pa.RecordBatch] = []
            rows = erased_rows = 0
            for batch in snapshot.batches():
                without = without_erased(pa.Table.from_batches([batch]), erased)
                for part in without.table.to_batches():
                    parquet.write_batch(_versioned(part, snapshot.version))
                fingerprint += without.difference
                erased_rows += without.rows
                rows += batch.num_rows
                if held.num_rows:
                    present.append(batch.select(KEY_COLUMNS))
            missing = _without(held, pa.Table.from_batches(present, held.schema))
            moved = without_erased(_still_there(snapshot, missing), erased).table
        if rows != fingerprint.rows:
            raise LegacySourceError(
                f"{key}: {rows:,} rows were read, but the same snapshot counts {fingerprint.rows:,}; run again"
            )
        # In the bucket before the range's earlier object, which still has them, is replaced at the end of the `with`.
        removed = _without(missing, moved.select(KEY_COLUMNS))
        left = _stage_left(store, month, range_index, snapshot.version, moved, removed) if missing.num_rows else None
    # Also one without rows: it replaces the range's earlier object under the same key.
    staged = [StagedObject(key, "legacy_email", rows, body.sha256)]
    size_bytes = body.bytes
    if left is not None:
        staged.append(left[0])
        size_bytes += left[1]
    return _CopiedRange(tuple(staged), fingerprint, moved.num_rows, removed.num_rows, erased_rows, size_bytes)


def _stage_left(
    store: ObjectStore, month: Month, range_index: int, version: int, moved: pa.Table, removed: pa.Table
) -> tuple[StagedObject, int]:
    """Stage what left the range's month: rows that are in another month now, and marks for rows that are gone.

    Each snapshot has a key of its own, kept for ever: nothing else in the bucket records these changes, and filling an
    empty warehouse from the bucket needs them.
    """
    key = legacy_left_key(str(month), range_index * RANGE_IDS, version)
    with store.writer(key) as file:
        body = _Measured(file)
        with pq.ParquetWriter(body, LEGACY_EMAIL_SCHEMA, compression="zstd") as parquet:
            for batch in moved.to_batches():
                parquet.write_batch(_versioned(batch, version))
            parquet.write_table(_removal_marks(removed, month, version))
    return StagedObject(key, "legacy_email", moved.num_rows + removed.num_rows, body.sha256), body.bytes


def _no_keys() -> pa.Table:
    return pa.schema([SOURCE_SCHEMA.field(name) for name in KEY_COLUMNS]).empty_table()


def _without(keys: pa.Table, others: pa.Table) -> pa.Table:
    """The keys that are not among the others."""
    return keys if not keys.num_rows else keys.join(others, list(KEY_COLUMNS), join_type="left anti")


def _still_there(snapshot: RangeSnapshot, missing: pa.Table) -> pa.Table:
    """The missing keys' rows that the source has under the same key, in another month: created_at was corrected."""
    if not missing.num_rows:
        return SOURCE_SCHEMA.empty_table()
    rows = snapshot.rows_of(missing.column("id").to_pylist())
    if not rows.num_rows:
        return rows
    same_key = rows.select(KEY_COLUMNS).join(missing, list(KEY_COLUMNS), join_type="left semi")
    return rows.filter(pc.is_in(rows.column("id"), value_set=same_key.column("id").combine_chunks()))


def _versioned(batch: pa.RecordBatch, version: int) -> pa.RecordBatch:
    constants = [pa.repeat(pa.scalar(version, pa.uint64()), batch.num_rows), _zeros(batch.num_rows)]
    return pa.RecordBatch.from_arrays([*batch.columns, *constants], schema=LEGACY_EMAIL_SCHEMA)


def _zeros(rows: int) -> pa.Array:
    return pa.repeat(pa.scalar(0, pa.uint8()), rows)


def _removal_marks(keys: pa.Table, month: Month, version: int) -> pa.Table:
    """One row per key that says that it is no more."""
    empty: dict[str, Any] = {
        "user_id": 0, "email": "", "subject": "", "status": "", "provider_message_id": None, "error": None,
        "sent_at": None, "created_at": month.start, "updated_at": month.start, "version": version, "is_deleted": 1,
    }  # fmt: skip
    columns = [
        keys.column(column.name)
        if column.name in KEY_COLUMNS
        else pa.repeat(pa.scalar(empty[column.name], column.type), keys.num_rows)
        for column in LEGACY_EMAIL_SCHEMA
    ]
    return pa.Table.from_arrays(columns, schema=LEGACY_EMAIL_SCHEMA)


class _Measured:
    """A file to write that counts and hashes what passes; Parquet is written from front to end."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._hash, self.bytes = file, sha256(), 0
        self.closed = False

    def write(self, data: bytes | memoryview) -> int:
        self._hash.update(data)
        size = len(memoryview(data).cast("B"))
        self.bytes += size
        self._file.write(data)
        return size

    def tell(self) -> int:
        return self.bytes

    def flush(self) -> None:
        """Nothing is held back here."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False

    def close(self) -> None:
        """The file stays open for the store."""

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()
