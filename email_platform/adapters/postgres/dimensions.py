"""Whole snapshots of `campaign` and `app_user`, and of how many suppressions there are, in bulk.

Invariant: one statement makes one snapshot, so it is consistent; rows travel as PostgreSQL's own CSV copy and
become Arrow columns without a Python object per row. No stored value can stop a snapshot, and with it all reports: a
value that the warehouse cannot hold is mapped (a time to null, or to 1970 where there must be one; a text to its
beginning), and `odd_rows` names the rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
from sqlalchemy import Engine, text

from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.manifest import EXCLUSION_REASONS
from email_platform.domain.odd_rows import OddRow
from email_platform.staging.dimensions import DIMENSION_SCHEMAS, DimensionName

_CSV_BLOCK_BYTES = 64 << 20  # a row may not span more than a block; a name or reason of 1 MB fits many times over


# ClickHouse's DateTime64 and Date32 hold the years 1900 to 2299 (its documentation, "DateTime64" and "Date32").
_FIRST_MOMENT, _END_OF_TIME = "1900-01-01 00:00:00+00", "2299-01-01 00:00:00+00"
_NO_TIME = "1970-01-01 00:00:00+00"
_TEXT_CHARACTERS = 100_000  # of four bytes each, doubled by CSV's quotes: five such texts fit a block
ODD_ROWS_NAMED = 20


def _is_odd(column: str) -> str:
    """SQL for whether the warehouse cannot hold this time; null where the time is null."""
    return f"({column} < timestamptz '{_FIRST_MOMENT}' or {column} >= timestamptz '{_END_OF_TIME}')"


def _time(column: str) -> str:
    """SQL for a time as UTC text, whatever the session's zone and date style; null if the warehouse cannot hold it."""
    written = f"""to_char({column} at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
    return f"case when not {_is_odd(column)} then {written} end"


def _some_time(column: str) -> str:
    """The same for a column that must hold a time."""
    return _time(f"(case when {_is_odd(column)} then timestamptz '{_NO_TIME}' else {column} end)")


def _text(sql: str) -> str:
    """SQL for a text that fits a block of CSV."""
    return f"left({sql}, {_TEXT_CHARACTERS})"


def _count(document: str, key: str) -> str:
    """SQL for a whole number in a JSON object; null where it is no whole number or does not fit."""
    value = f"{document} ->> '{key}'"
    return f"case when ({value}) ~ '^[0-9]{{1,18}}$' then ({value})::bigint end"


_EXCLUDED = {reason: f"coalesce({_count('manifest.excluded_by_reason', reason)}, 0)" for reason in EXCLUSION_REASONS}

# The values frozen in the manifest come first: an edit of the campaign or sender did not change what was sent. A
# manifest without its campaign (no foreign key) still gives a row, as old as its freezing, so any snapshot with the
# campaign's own row that was taken after it wins.
_CAMPAIGNS = f"""
select
    coalesce(campaign.id, manifest.campaign_id) as id,
    coalesce(campaign.owner_id, {_count("manifest.sender", "owner_id")}, 0) as owner_id,
    coalesce({_count("manifest.sender", "sender_id")}, campaign.sender_id, 0) as sender_id,
    {_text("coalesce(manifest.sender ->> 'from_address', sender.from_address, '')")} as from_address,
    {_text("coalesce(campaign.name, '')")} as name,
    {_text("coalesce(manifest.content ->> 'subject_template', campaign.subject_template, '')")} as subject,
    coalesce(campaign.status, 'deleted') as status,
    {_text("campaign.status_reason")} as status_reason,
    {_time("campaign.scheduled_at")} as scheduled_at,
    {_time("campaign.queued_at")} as queued_at,
    {_time("campaign.started_at")} as started_at,
    {_time("campaign.finished_at")} as finished_at,
    {_time("campaign.created_at")} as created_at,
    manifest.eligible_rows + {" + ".join(_EXCLUDED.values())} as considered,
    manifest.eligible_rows as eligible,
    {
    ", ".join(
        f"case when manifest.campaign_id is not null then {sql} end as excluded_{reason}"
        for reason, sql in _EXCLUDED.items()
    )
},
    (manifest.eligible_rows + manifest.chunk_rows - 1) / nullif(manifest.chunk_rows, 0) as chunk_count,
    case when manifest.campaign_id is not null then coalesce(staged.deliveries, 0) end as staged,
    {_time("manifest.frozen_at")} as frozen_at,
    {_some_time("(case when campaign.id is null then manifest.frozen_at else %(snapshot_at)s::timestamptz end)")}
        as snapshot_at
from campaign
full outer join campaign_manifest as manifest on manifest.campaign_id = campaign.id
left join sender on sender.id = campaign.sender_id
left join (
    select campaign_id, sum(rows)::bigint as deliveries
    from staged_object
    where kind = 'delivery'
    group by campaign_id
) as staged on staged.campaign_id = manifest.campaign_id
order by 1
"""  # noqa: S608 - the parts are constants of this module

_APP_USERS = f"""
select
    id,
    {_text("email")} as email,
    {_text("name")} as name,
    {_some_time("created_at")} as created_at,
    {_time("%(snapshot_at)s::timestamptz")} as snapshot_at
from app_user
order by id
"""  # noqa: S608 - the parts are constants of this module

_SUPPRESSIONS = f"""
select
    concat_ws('/', created_on, reason, coalesce(sender_id::text, 'every'), source) as id,
    created_on,
    reason,
    source,
    sender_id,
    count(*) as suppressions,
    {_time("%(snapshot_at)s::timestamptz")} as snapshot_at
from (
    select left({_some_time("created_at")}, 10) as created_on, reason, {_text("source")} as source, sender_id
    from suppression
) as suppressions
group by created_on, reason, source, sender_id
order by 1
"""  # noqa: S608 - the parts are constants of this module

_STATEMENTS: Mapping[DimensionName, str] = {
    "campaign": _CAMPAIGNS,
    "app_user": _APP_USERS,
    "suppression": _SUPPRESSIONS,
}


_ODD_COLUMNS: Mapping[DimensionName, tuple[str, ...]] = {
    "campaign": ("scheduled_at", "queued_at", "started_at", "finished_at", "created_at"),
    "app_user": ("created_at",),
    "suppression": ("created_at",),
}


def _odd_rows(name: DimensionName) -> str:
    """Ids of the rows of which a snapshot maps a time, with the columns' names."""
    columns = _ODD_COLUMNS[name]
    named = ", ".join(f"case when {_is_odd(column)} then '{column}' end" for column in columns)
    any_odd = " or ".join(_is_odd(column) for column in columns)
    return f"select id, concat_ws(', ', {named}) as columns from {name} where {any_odd} order by id limit :limit"  # noqa: S608


class PostgresDimensionSource:
    """`email_platform.staging.dimensions.DimensionSource` over the OLTP tables."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def snapshot(self, name: DimensionName, snapshot_at: datetime) -> pa.Table:
        """The table as it is now; see the Protocol.

        Raises:
            PartUnavailableError: PostgreSQL is away.
        """
        statement = f"copy ({_STATEMENTS[name]}) to stdout (format csv, header, force_quote *, encoding 'UTF8')"
        buffer = BytesIO()
        with oltp_transaction(self._engine) as connection:
            cursor: Any = connection.connection.cursor()
            with cursor.copy(statement, {"snapshot_at": snapshot_at}) as copy:
                for block in copy:
                    buffer.write(block)
        return table_of_csv(buffer.getvalue(), DIMENSION_SCHEMAS[name])

    def odd_rows(self) -> Sequence[OddRow]:
        """The first `ODD_ROWS_NAMED` rows of each table of which a snapshot maps a time; see the Protocol."""
        found: list[OddRow] = []
        with oltp_transaction(self._engine) as connection:
            for name in DIMENSION_SCHEMAS:
                rows = connection.execute(text(_odd_rows(name)), {"limit": ODD_ROWS_NAMED})
                found += [
                    OddRow(
                        name, str(row.id), f"{row.columns} is not within the years 1900 to 2298: correct or clear it"
                    )
                    for row in rows
                ]
        return found


def table_of_csv(csv: bytes, schema: pa.Schema) -> pa.Table:
    """Arrow columns from PostgreSQL's CSV, where null is empty without quotes and an empty text is quoted."""
    return pa_csv.read_csv(
        BytesIO(csv),
        read_options=pa_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(
            column_types=schema,
            include_columns=schema.names,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    ).cast(schema)
