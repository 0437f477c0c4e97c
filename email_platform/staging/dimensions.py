"""The small OLTP tables as the reports see them: whole snapshots, in bulk, from PostgreSQL to ClickHouse.

Invariant: a snapshot counts only after all of it is loaded; a row that a later snapshot lacks stays known as
the last snapshot with it showed it, marked as deleted by its older ``snapshot_at``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from io import BytesIO
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from email_platform.domain.manifest import EXCLUSION_REASONS
from email_platform.domain.odd_rows import OddRow
from email_platform.domain.ports import Clock, ObjectStore, StagedKind, StagedObject
from email_platform.domain.storage_layout import dimension_key

DimensionName = Literal["campaign", "app_user", "suppression"]

SNAPSHOT_FORMAT = "%Y%m%dT%H%M%S.%fZ"
"""How an object's key names the moment of its snapshot."""

_TIME = pa.timestamp("us", tz="UTC")

# One row per campaign. The counts are those of its frozen manifest, null where there is none; `staged` is how many
# deliveries the register says are in the staging area, loaded or not: what the reports must show in the end. A
# campaign that was deleted with its manifest left behind has a row too, with what the manifest knows and
# snapshot_at = frozen_at.
CAMPAIGN_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("owner_id", pa.int64(), nullable=False),
        pa.field("sender_id", pa.int64(), nullable=False),
        pa.field("from_address", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("subject", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("status_reason", pa.string()),
        pa.field("scheduled_at", _TIME),
        pa.field("queued_at", _TIME),
        pa.field("started_at", _TIME),
        pa.field("finished_at", _TIME),
        pa.field("created_at", _TIME),
        pa.field("considered", pa.int64()),
        pa.field("eligible", pa.int64()),
        *(pa.field(f"excluded_{reason}", pa.int64()) for reason in EXCLUSION_REASONS),
        pa.field("chunk_count", pa.int64()),
        pa.field("staged", pa.int64()),
        pa.field("frozen_at", _TIME),
        pa.field("snapshot_at", _TIME, nullable=False),
    ]
)

APP_USER_SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("email", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("created_at", _TIME, nullable=False),
        pa.field("snapshot_at", _TIME, nullable=False),
    ]
)

# How many suppressions are in force, by the UTC day they began on, reason, source and sender (null: every sender).
# Counted by PostgreSQL: no address leaves it, and a list of millions is a snapshot of a few thousand rows, which is
# taken at every refresh. `id` is the rest of the key as one text.
SUPPRESSION_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("created_on", pa.date32(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
        pa.field("sender_id", pa.int64()),
        pa.field("suppressions", pa.int64(), nullable=False),
        pa.field("snapshot_at", _TIME, nullable=False),
    ]
)

DIMENSION_SCHEMAS: Mapping[DimensionName, pa.Schema] = {
    "campaign": CAMPAIGN_SCHEMA,
    "app_user": APP_USER_SCHEMA,
    "suppression": SUPPRESSION_SCHEMA,
}
DIMENSION_KINDS: Mapping[DimensionName, StagedKind] = {
    "campaign": "dimension_campaign",
    "app_user": "dimension_app_user",
    "suppression": "dimension_suppression",
}


class DimensionSource(Protocol):
    """Reads whole small tables of the OLTP database."""

    def snapshot(self, name: DimensionName, snapshot_at: datetime) -> pa.Table:
        """The table as it is now, in its schema of `DIMENSION_SCHEMAS`; one row per id, in id order."""
        ...

    def odd_rows(self) -> Sequence[OddRow]:
        """Rows of which a snapshot cannot show every value as it is; some of each table."""
        ...


class DimensionWarehouse(Protocol):
    """What `refresh_dimensions` needs of the warehouse."""

    def load(self, staged: StagedObject) -> int:
        """See `email_platform.domain.ports.Warehouse`."""
        ...

    def complete_snapshot(self, name: DimensionName, snapshot_at: datetime, rows: int) -> None:
        """Say that this snapshot is loaded whole: rows that it lacks are deleted ones from now on."""
        ...


def refresh_dimensions(
    source: DimensionSource, store: ObjectStore, warehouse: DimensionWarehouse, clock: Clock
) -> dict[DimensionName, int]:
    """Bring the warehouse's small tables up to date; returns the rows of each snapshot.

    May be repeated and may run twice at once: the newest snapshot of a row wins.

    Raises:
        PartUnavailableError: a part did not answer; nothing counts until all of a snapshot is loaded.
    """
    rows: dict[DimensionName, int] = {}
    for name in DIMENSION_SCHEMAS:
        snapshot_at = clock()  # before reading: a row that is older than a later snapshot is never taken as newer
        table = source.snapshot(name, snapshot_at)
        staged = _stage(store, name, snapshot_at, table)  # also an empty one: a rebuild knows it by its object
        if table.num_rows:
            warehouse.load(staged)
        warehouse.complete_snapshot(name, snapshot_at, table.num_rows)
        rows[name] = table.num_rows
    return rows


def _stage(store: ObjectStore, name: DimensionName, snapshot_at: datetime, table: pa.Table) -> StagedObject:
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    body = buffer.getvalue()
    key = dimension_key(name, snapshot_at.astimezone(UTC).strftime(SNAPSHOT_FORMAT))
    store.put(key, body)
    return StagedObject(key, DIMENSION_KINDS[name], table.num_rows, sha256(body).hexdigest())


def snapshot_at_of(key: str) -> datetime:
    """When the snapshot under this key was taken."""
    return datetime.strptime(key.rpartition("/")[2].removesuffix(".parquet"), SNAPSHOT_FORMAT).replace(tzinfo=UTC)
