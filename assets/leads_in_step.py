"""Our leads, kept in step with another database: slices that are compared as a whole, and a look for changes."""

from collections.abc import Iterator

import dagster as dg

from assets.catalog import DELIVERY_OWNERS, LEADS, PII
from assets.jobs import RETRY_TAGS
from assets.outcomes import final_errors_end_the_run
from assets.sources import lead_source_table
from email_platform.errors import PartUnavailableError
from email_platform.runs.lead_sync import SLICES, ChangesReport, SliceReport
from resources.lead_source import LeadSourceResource

LEAD_SOURCE_POOL = "lead_source"  # one run at a time reads the source: its limit of rows a second is for all
_LEADS_IN_STEP = dg.AssetKey("leads_in_step")

# Range r of 10,000 keys belongs to slice r modulo their number: each key has one for ever.
lead_slices = dg.StaticPartitionsDefinition([f"{index:02d}" for index in range(SLICES)])


@dg.asset(
    key=_LEADS_IN_STEP,
    partitions_def=lead_slices,
    deps=[lead_source_table],
    group_name=LEADS,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"mysql", "postgres"},
    pool=LEAD_SOURCE_POOL,
    retry_policy=dg.RetryPolicy(max_retries=5, delay=10, backoff=dg.Backoff.EXPONENTIAL),
    check_specs=[
        dg.AssetCheckSpec(
            "reconciled",
            asset=_LEADS_IN_STEP,
            description="count and checksum of every range of keys are equal, computed by both engines",
            partitions_def=lead_slices,
        ),
        dg.AssetCheckSpec(
            "no_row_is_quarantined",
            asset=_LEADS_IN_STEP,
            description="a lead could be made of every row that was copied; `lead_source_row.problem` says why not",
            partitions_def=lead_slices,
        ),
    ],
)
def leads_in_step(context: dg.AssetExecutionContext, lead_source: LeadSourceResource) -> dg.MaterializeResult:
    """Every lead of one slice of the keys as it is at the source, deleted ones removed.

    Grain: a source row. Running again copies only the ranges of keys in which something differs, so a killed run goes
    on where it was.
    """

    def on_range(range_index: int, rows: int) -> None:
        context.log.info(f"range {range_index}: {rows:,} rows")

    with final_errors_end_the_run():
        try:
            report = lead_source.sync_slice(int(context.partition_key), on_range)
        except PartUnavailableError as away:
            raise dg.RetryRequested(max_retries=5, seconds_to_wait=10) from away
    return dg.MaterializeResult(metadata=_slice_metadata(report), check_results=list(_checks(report)))


@dg.asset(
    deps=[lead_source_table],
    group_name=LEADS,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"mysql", "postgres"},
    pool=LEAD_SOURCE_POOL,
    retry_policy=dg.RetryPolicy(max_retries=2, delay=10),
)
def lead_changes(lead_source: LeadSourceResource) -> dg.MaterializeResult:
    """What changed at the source since the last look, by its change column; deleted rows only where they are marked."""
    with final_errors_end_the_run():
        try:
            report = lead_source.take_over_changes()
        except PartUnavailableError as away:
            raise dg.RetryRequested(max_retries=2, seconds_to_wait=10) from away
    return dg.MaterializeResult(metadata=_changes_metadata(report))


def _slice_metadata(report: SliceReport) -> dict[str, int | float]:
    return {
        "dagster/row_count": report.rows,
        "ranges copied now": report.copied_ranges,
        "leads added": report.applied.added,
        "leads changed": report.applied.changed,
        "leads removed": report.applied.removed,
        "rows quarantined": report.applied.quarantined,
        "seconds paused to spare the source": round(report.paused_seconds, 1),
    }


def _changes_metadata(report: ChangesReport) -> dict[str, int | str]:
    return {
        "rows read": report.rows_read,
        "rows as they were": report.applied.unchanged,
        "leads added": report.applied.added,
        "leads changed": report.applied.changed,
        "leads removed": report.applied.removed,
        "rows quarantined": report.applied.quarantined,
        "changes known up to": str(report.position),
        "source": report.source,
    }


def _checks(report: SliceReport) -> Iterator[dg.AssetCheckResult]:
    lines = [f"- keys from {key:,}: source {theirs}, ours {ours}" for key, theirs, ours in report.differences()]
    yield dg.AssetCheckResult(
        check_name="reconciled",
        asset_key=_LEADS_IN_STEP,
        passed=not lines,
        metadata={"rows": report.rows, "differing ranges": dg.MetadataValue.md("\n".join(lines[:50]) or "none")},
    )
    yield dg.AssetCheckResult(
        check_name="no_row_is_quarantined",
        asset_key=_LEADS_IN_STEP,
        passed=not report.applied.quarantined,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"rows quarantined": report.applied.quarantined},
    )


_TAGS = {**RETRY_TAGS, "dagster/priority": "-10"}
lead_slices_job = dg.define_asset_job(
    "lead_slices_job",
    selection=dg.AssetSelection.assets(leads_in_step),
    executor_def=dg.in_process_executor,
    tags=_TAGS,
    description="Compare slices of our leads with their source and copy what differs; safe to run again at any time.",
)
lead_changes_job = dg.define_asset_job(
    "lead_changes_job",
    selection=dg.AssetSelection.assets(lead_changes),
    executor_def=dg.in_process_executor,
    tags=_TAGS,
    description="Take over what changed at the leads' source since the last look; safe to run again at any time.",
)

# Both are stopped by default: most installations have their leads in PostgreSQL.
lead_changes_schedule = dg.ScheduleDefinition(
    name="lead_changes_schedule",
    job=lead_changes_job,
    cron_schedule="*/2 * * * *",
    default_status=dg.DefaultScheduleStatus.STOPPED,
)


@dg.schedule(job=lead_slices_job, cron_schedule="15 * * * *", default_status=dg.DefaultScheduleStatus.STOPPED)
def lead_slices_schedule(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """One slice after the other, so that each is compared at least once in as many hours as there are slices."""
    moment = context.scheduled_execution_time
    index = int(moment.timestamp() // 3600) % SLICES
    return dg.RunRequest(run_key=f"{moment.isoformat()}", partition_key=f"{index:02d}")
