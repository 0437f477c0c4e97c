"""Which table takes objects of which kind, and what must be true of them.

Invariant: an object's columns are those of its table, beside source_object, source_sha256 and loaded_at, which record
what was loaded and when.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from email_platform.domain.manifest import EXCLUDED_SCHEMA, EXCLUSION_REASONS
from email_platform.domain.ports import StagedKind
from email_platform.events.event import EVENT_SCHEMA, EVENT_TYPES
from email_platform.runs.legacy_table import LEGACY_EMAIL_SCHEMA
from email_platform.staging.delivery_rows import DELIVERY_SCHEMA, DELIVERY_STATUSES
from email_platform.staging.dimensions import APP_USER_SCHEMA, CAMPAIGN_SCHEMA, SUPPRESSION_SCHEMA

_CLICKHOUSE_TYPES: Mapping[pa.DataType, str] = {
    pa.int64(): "Int64",
    pa.int32(): "Int32",
    pa.uint64(): "UInt64",
    pa.uint16(): "UInt16",
    pa.uint8(): "UInt8",
    pa.date32(): "Date32",
    pa.string(): "String",
}


@dataclass(frozen=True, slots=True)
class Target:
    """How objects of one kind become rows of one table.

    Attributes:
        schema: of the object; its columns are those of the table, beside the ones that record where a row comes from.
        key: the column that is unique within one object.
        version: the column that decides between two rows, or None where rows never change.
        of_campaign: the object's key names the campaign of all its rows.
        allowed_words: a column and the only values that it may have.
        append_only: the table keeps every row of every object, so an object's rows are found by its name.
        time: the column by which an append-only table is partitioned, if it is partitioned by time.
        live_rows: the condition of rows that are not only the mark of a removed one.
    """

    table: str
    schema: pa.Schema
    key: str
    version: str | None
    of_campaign: bool = False
    allowed_words: tuple[str, tuple[str, ...]] | None = None
    append_only: bool = False
    time: str | None = None
    live_rows: str = "1"

    @property
    def columns(self) -> str:
        """The object's columns, as SQL lists them."""
        return ", ".join(self.schema.names)

    def structure(self, names: tuple[str | None, ...] | None = None, *, nullable: bool = False) -> str:
        """The object's columns as s3() takes them: all, or those of the names; as they are, or all nullable."""
        return ", ".join(
            f"{column.name} {clickhouse_type(column.with_nullable(True) if nullable else column)}"
            for column in self.schema
            if names is None or column.name in names
        )


TARGETS: Mapping[StagedKind, Target] = {
    "delivery": Target(
        "delivery", DELIVERY_SCHEMA, "lead_id", "version", of_campaign=True, allowed_words=("status", DELIVERY_STATUSES)
    ),
    "exclusion": Target(
        "exclusion", EXCLUDED_SCHEMA, "lead_id", None, of_campaign=True, allowed_words=("reason", EXCLUSION_REASONS)
    ),
    "dimension_campaign": Target("campaign", CAMPAIGN_SCHEMA, "id", "snapshot_at"),
    "dimension_app_user": Target("app_user", APP_USER_SCHEMA, "id", "snapshot_at"),
    "dimension_suppression": Target("suppression", SUPPRESSION_SCHEMA, "id", "snapshot_at"),
    "legacy_email": Target("legacy_email", LEGACY_EMAIL_SCHEMA, "id", "version", live_rows="is_deleted = 0"),
    "event": Target(
        "event",
        EVENT_SCHEMA,
        "event_key",
        None,
        allowed_words=("type", EVENT_TYPES),
        append_only=True,
        time="occurred_at",
    ),
}


def clickhouse_type(column: pa.Field) -> str:
    """The ClickHouse type of one Arrow column of our schemas.

    Raises:
        KeyError: no column of the domain has this type.
    """
    if pa.types.is_timestamp(column.type):
        name = f"DateTime64({3 if column.type.unit == 'ms' else 6}, 'UTC')"
    else:
        name = _CLICKHOUSE_TYPES[column.type]
    return f"Nullable({name})" if column.nullable else name
