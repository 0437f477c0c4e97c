"""The old RDS table `email` in the warehouse, month by month; a backfill of this asset is the migration."""

import os

import dagster as dg

from assets.catalog import DELIVERY_OWNERS, LEGACY, PII
from assets.jobs import RETRY_TAGS
from assets.legacy_partitions import FIRST_MONTH_VARIABLE, first_month, legacy_months, month_of
from assets.outcomes import final_errors_end_the_run
from assets.sources import old_email_table
from email_platform.errors import PartUnavailableError
from email_platform.runs.legacy_import import ImportReport
from resources.legacy import LegacyImportResource

LEGACY_POOL = "legacy_source"  # one run at a time reads the old database: its limit of rows a second is for all
_LEGACY_EMAILS = dg.AssetKey("legacy_emails")


@dg.asset(
    key=_LEGACY_EMAILS,
    deps=[old_email_table],
    partitions_def=legacy_months,
    group_name=LEGACY,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"postgres", "s3", "clickhouse"},
    pool=LEGACY_POOL,
    retry_policy=dg.RetryPolicy(max_retries=5, delay=10, backoff=dg.Backoff.EXPONENTIAL),
    check_specs=[
        dg.AssetCheckSpec(
            "reconciled",
            asset=_LEGACY_EMAILS,
            description="count and checksum of every range of ids are equal, computed by PostgreSQL and by ClickHouse",
            blocking=True,
            partitions_def=legacy_months,
        ),
        dg.AssetCheckSpec(
            "partitions_cover_the_table",
            asset=_LEGACY_EMAILS,
            description=f"no old row is from before the first partition ({FIRST_MONTH_VARIABLE})",
            partitions_def=legacy_months,
        ),
    ],
)
def legacy_emails(context: dg.AssetExecutionContext, legacy: LegacyImportResource) -> dg.MaterializeResult:
    """Every row of the old table created in the month, as Parquet in S3 and in ClickHouse.

    Grain: old id. Running again copies only ranges of ids in which something differs, so a killed run goes on where
    it was, and what was changed at the source since is corrected.
    """

    def on_range(done: int, of: int, rows: int) -> None:
        context.log.info(f"{done} of {of} ranges, {rows:,} rows")

    with final_errors_end_the_run():
        try:
            report = legacy.import_month(month_of(context.partition_key), on_range)
        except PartUnavailableError as away:  # a busy source, a replica in recovery: wait, then go on
            raise dg.RetryRequested(max_retries=5, seconds_to_wait=10) from away
    return dg.MaterializeResult(metadata=_metadata(report), check_results=[_reconciled(report), _covered(report)])


def _metadata(report: ImportReport) -> dict[str, int | float | str]:
    return {
        "dagster/row_count": report.warehouse_total.rows,
        "rows at the source": report.source_total.rows,
        "rows in the warehouse": report.warehouse_total.rows,
        "checksum at the source": str(report.source_total.checksum),
        "checksum in the warehouse": str(report.warehouse_total.checksum),
        "ranges copied now": report.copied_ranges,
        "rows copied now": report.copied_rows,
        "rows of another month copied along": report.moved_rows,
        "rows gone at the source": report.removed_rows,
        "rows with a pseudonym for somebody who was erased": report.erased_rows,
        "bytes staged now": report.copied_bytes,
        "seconds": round(report.seconds, 1),
        "seconds paused to spare the source": round(report.paused_seconds, 1),
        "source": f"{report.description.address}, table {report.description.table}"
        + (", a replica" if report.description.is_replica else ""),
    }


def _reconciled(report: ImportReport) -> dg.AssetCheckResult:
    lines = [
        f"- ids from {first_id:,}: source {source}, warehouse {warehouse}"
        for first_id, source, warehouse in report.differences()
    ]
    return dg.AssetCheckResult(
        check_name="reconciled",
        asset_key=_LEGACY_EMAILS,
        passed=not lines,
        metadata={
            "month": str(report.month),
            "ranges compared": len(report.source),
            "rows": report.source_total.rows,
            "differing ranges": dg.MetadataValue.md("\n".join(lines[:50]) or "none"),
        },
    )


def _covered(report: ImportReport) -> dg.AssetCheckResult:
    earliest, start = report.description.earliest_created_at, first_month(os.environ).start
    return dg.AssetCheckResult(
        check_name="partitions_cover_the_table",
        asset_key=_LEGACY_EMAILS,
        passed=earliest is None or earliest >= start,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "earliest row": str(earliest),
            "first partition": str(start),
            "mend": f"set {FIRST_MONTH_VARIABLE} to an earlier month and restart Dagster",
        },
    )


legacy_import_job = dg.define_asset_job(
    "legacy_import_job",
    selection=dg.AssetSelection.assets(legacy_emails),
    executor_def=dg.in_process_executor,
    tags={**RETRY_TAGS, "dagster/priority": "-10"},
    description="Imports months of the old email table into the warehouse. Launch it as a backfill; run again, it "
    "copies only what differs. Reads the old database at a bounded rate, and mails nobody.",
)
