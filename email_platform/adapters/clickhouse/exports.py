"""Any mart as a CSV or Parquet file.

Invariant: rows go from ClickHouse to the file batch by batch; memory does not grow with the mart. A file holds every
row of the mart once, or is not there.

The stream is Arrow's, as clickhouse-connect gives it (`query_arrow_stream`):
https://clickhouse.com/docs/integrations/language-clients/python/advanced-querying
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from email_platform.adapters.clickhouse.address import reports_database_beside
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.errors import CommandRefusedError, PartUnavailableError

ExportFormat = Literal["csv", "parquet"]
MARTS = (
    *("bounce_reasons", "campaign_recipients", "campaign_summary", "domain_deliverability", "email"),
    *("hourly_throughput", "lead_history", "sender_activity", "suppression_growth"),
)
"""The models of `dbt_reports/models/marts`; a test compares."""


def export_mart(
    warehouse: ClickHouseWarehouse, mart: str, file: Path, form: ExportFormat, campaign_id: int | None = None
) -> int:
    """Write a mart's rows into a file; returns how many. A file that is there is replaced once the new one is whole.

    Args:
        warehouse: whose reports.
        mart: one of `MARTS`.
        file: where to.
        form: csv (UTF-8, with a line of names, texts in quotes, null as nothing, times in UTC) or parquet (the types
            of the mart).
        campaign_id: only rows of this campaign, for marts that name one.

    Raises:
        CommandRefusedError: there is no such mart, or its rows name no campaign.
        ConfigurationError, PartUnavailableError: ClickHouse refuses, lacks the reports or does not answer.
    """
    if mart not in MARTS:
        raise CommandRefusedError(f"there is no mart {mart!r}; there are {', '.join(MARTS)}")
    table = f"{reports_database_beside(warehouse.database)}.{mart}"
    columns = warehouse.query(f"describe table {table}", {})
    names = [str(column[0]) for column in columns]
    if campaign_id is not None and "campaign_id" not in names:
        raise CommandRefusedError(f"rows of {mart} are of no single campaign: leave --campaign out")
    condition = "where campaign_id = {campaign:Int64}" if campaign_id is not None else ""
    selected = ", ".join(_selected(str(name), str(kind)) for name, kind, *_ in columns)
    statement = f"select {selected} from {table} as mart {condition}"  # noqa: S608 - constants and our own columns
    bound = {"campaign": campaign_id} if campaign_id is not None else {}

    def expected() -> int:
        return int(warehouse.query(f"select count() from {table} {condition}", bound)[0][0])  # noqa: S608

    before = expected()
    with _whole(file) as part:
        with warehouse.arrow_batches(statement, bound) as (schema, batches):
            rows = _write(schema, batches, part, form)
        # An Arrow stream that breaks off between two batches looks like one that has ended. A refresh may come between.
        after = expected()
        if not min(before, after) <= rows <= max(before, after):
            raise PartUnavailableError(f"ClickHouse ended the rows of {mart} early ({rows} of {after}): run it again")
    return rows


def _selected(name: str, kind: str) -> str:
    """A column as a reader of the file wants it: to Arrow, ClickHouse gives Date and DateTime as bare numbers."""
    bare = kind.removeprefix("Nullable(")
    if bare.startswith("DateTime") and not bare.startswith("DateTime64"):
        return f"toDateTime64(mart.{name}, 0, 'UTC') as {name}"
    if bare.startswith("Date") and not bare.startswith("Date32") and not bare.startswith("DateTime"):
        return f"toDate32(mart.{name}) as {name}"
    return f"mart.{name} as {name}"


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A file beside, which takes the file's place where the block succeeds and goes away where it does not."""
    part = file.with_name(f"{file.name}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


def _write(schema: pa.Schema, batches: Iterable[pa.RecordBatch], part: Path, form: ExportFormat) -> int:
    """Write the batches; returns the rows."""
    rows = 0
    writer = (
        pyarrow.parquet.ParquetWriter(part, schema, compression="zstd")
        if form == "parquet"
        else pyarrow.csv.CSVWriter(part, schema)
    )
    with writer:
        for batch in batches:
            writer.write_batch(batch)
            rows += batch.num_rows
    return rows
