"""The old RDS table `email` as the import sees it: its columns, months, ranges of ids, and what proves them equal.

Invariant: both sides compute the same fingerprint for the same rows, so equal fingerprints mean equal rows.
"""

from __future__ import annotations

import calendar
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Protocol

import pyarrow as pa

from email_platform.errors import LegacySourceError
from email_platform.settings import variable_of

RANGE_IDS = 100_000
"""Old ids of one range: 0.3 s of reading on two cores, an object of 5 to 10 MB, at most 30 MB in memory."""

_TIME = pa.timestamp("us", tz="UTC")

# The old table's columns, in its order.
SOURCE_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("campaign_id", pa.int64(), nullable=False),
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("lead_id", pa.int64(), nullable=False),
        pa.field("email", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("provider_message_id", pa.string()),
        pa.field("error", pa.string()),
        pa.field("sent_at", _TIME),
        pa.field("created_at", _TIME, nullable=False),
        pa.field("updated_at", _TIME, nullable=False),
    ]
)
# One row per old id of a range. A removed one keeps its key columns; the others are empty.
LEGACY_EMAIL_SCHEMA = pa.schema(
    [
        *SOURCE_SCHEMA,
        pa.field("version", pa.uint64(), nullable=False),  # the snapshot's moment, microseconds since 1970
        pa.field("is_deleted", pa.uint8(), nullable=False),
    ]
)
# The order of the warehouse's table: a row whose key changed at the source is another row there.
KEY_COLUMNS = ("campaign_id", "lead_id", "id")

EARLIEST_TIME = datetime(1900, 1, 1, tzinfo=UTC)
LATEST_TIME = datetime(2299, 12, 31, tzinfo=UTC)
"""What ClickHouse's DateTime64 holds; PostgreSQL's `infinity` and the years before are refused by name."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """Count and checksum of a set of rows; two sets with equal ones hold equal rows, in whatever order.

    Attributes:
        checksum: sum of a 60-bit number per row, the head of the MD5 of its canonical text; None where only the
            count was asked for.
    """

    rows: int = 0
    checksum: int | None = 0

    def __add__(self, other: Fingerprint) -> Fingerprint:
        if self.checksum is None or other.checksum is None:
            return Fingerprint(self.rows + other.rows, None)
        return Fingerprint(self.rows + other.rows, self.checksum + other.checksum)

    def __str__(self) -> str:
        return f"{self.rows:,} rows, checksum {self.checksum}"


NOTHING = Fingerprint()
Fingerprints = Mapping[int, Fingerprint]
"""By range: the ids from ``range * RANGE_IDS`` on."""


@dataclass(frozen=True, slots=True)
class Month:
    """One calendar month in UTC, a partition of the import."""

    year: int
    month: int

    @classmethod
    def of(cls, day: date) -> Month:
        """The month with this day."""
        return cls(day.year, day.month)

    @property
    def start(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def end(self) -> datetime:
        """The first moment after it."""
        return self.start + timedelta(days=calendar.monthrange(self.year, self.month)[1])

    def days(self) -> Iterator[tuple[datetime, datetime]]:
        """Its days, as first moment and first moment after."""
        day = self.start
        while day < self.end:
            yield day, day + timedelta(days=1)
            day += timedelta(days=1)

    def __str__(self) -> str:
        return f"{self.year:04d}-{self.month:02d}"


def require_known_columns(
    place: str,
    columns: Mapping[str, tuple[str, str]],
    accepted: Mapping[pa.DataType, Collection[str]],
    ignored: Collection[str],
) -> None:
    """Check that the old table has the columns that this import knows, and no others.

    Args:
        place: the table and where it is, without user and password.
        columns: by name, the type's plain name and the type as the engine writes it.
        accepted: by type of `SOURCE_SCHEMA`, the plain names that can be read as it.
        ignored: columns that may stay behind.

    Raises:
        LegacySourceError: names every column that is unknown, missing or of another type.
    """
    unknown = sorted(columns.keys() - set(SOURCE_SCHEMA.names) - set(ignored))
    missing = [name for name in SOURCE_SCHEMA.names if name not in columns]
    known = [column for column in SOURCE_SCHEMA if column.name in columns]
    problems = [
        *(f"column {name} is unknown to the import" for name in unknown),
        *(f"column {name} is missing" for name in missing),
        *(f"{one.name} is {columns[one.name][1]}" for one in known if columns[one.name][0] not in accepted[one.type]),
    ]
    if problems:
        raise LegacySourceError(
            f"{place}: {'; '.join(problems)}. Nothing is dropped silently: name columns that may stay behind in "
            f"{variable_of('legacy_ignored_columns')}, or extend the import"
        )


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """What the source says of itself.

    Attributes:
        address: host, port and database, without user and password.
        is_replica: whether it is a standby, where reading costs the application nothing.
        earliest_created_at: None where the table is empty.
    """

    address: str
    table: str
    is_replica: bool
    earliest_created_at: datetime | None


class RangeSnapshot(Protocol):
    """One range of ids of one month, as of one moment. Everything read from it is of the same snapshot."""

    @property
    def version(self) -> int:
        """The snapshot's moment, microseconds since 1970."""
        ...

    def fingerprint(self) -> Fingerprint:
        """Count and checksum, computed by the source."""
        ...

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows in `SOURCE_SCHEMA`, in id order."""
        ...

    def rows_of(self, ids: Sequence[int]) -> pa.Table:
        """The rows with these ids that exist at the source, of whichever month."""
        ...


class LegacySource(Protocol):
    """The old table. No method writes, none keeps a transaction open after it returns."""

    def describe(self) -> SourceDescription:
        """Check that the table is the one that this import knows.

        Raises:
            LegacySourceError: a column, type or index is missing or unknown; says which.
        """
        ...

    def fingerprints(self, start: datetime, end: datetime, *, with_checksums: bool) -> Fingerprints:
        """Of the rows created in ``[start, end)``, by range.

        Raises:
            LegacySourceError: a time is outside what the warehouse can hold; names ids.
        """
        ...

    def snapshot(self, month: Month, range_index: int) -> AbstractContextManager[RangeSnapshot]:
        """Open one short read-only snapshot of a range's rows of a month."""
        ...


class LegacyWarehouse(Protocol):
    """What the import asks of the table ``legacy_email``."""

    def fingerprints(self, month: Month) -> Fingerprints:
        """Of the live rows created in the month, by range, computed by the warehouse."""
        ...

    def pseudonymous_ids(self, month: Month) -> Mapping[int, Sequence[int]]:
        """By range, ids of the month's live rows in which a pseudonym stands for somebody who was erased."""
        ...

    def keys(self, month: Month, range_index: int) -> pa.Table:
        """`KEY_COLUMNS` of the live rows of one range and month."""
        ...


def differing_ranges(source: Fingerprints, warehouse: Fingerprints) -> tuple[int, ...]:
    """Ranges that one side lacks or where the fingerprints differ, in order."""
    return tuple(
        sorted(
            range_index
            for range_index in source.keys() | warehouse.keys()
            if source.get(range_index, NOTHING) != warehouse.get(range_index, NOTHING)
        )
    )
