"""The campaign's deliveries as a graph-backed asset: split into chunks, send each, judge completeness.

campaign_audience ──▶ split_into_chunks ──▶ send_chunk [0..n] ──▶ finish_campaign
(dynamic)         one step a chunk       from the ledger
"""

import threading
import time
from collections.abc import Callable, Iterator

import dagster as dg

from assets.campaign_audience import campaign_audience
from assets.outcomes import LOST_STEP, final_errors_end_the_run, only_outages_are_repeated
from assets.partitions import campaign_id_of, campaign_partitions
from assets.step_process import ending_with_the_run
from email_platform.domain.storage_layout import deliveries_prefix
from email_platform.runs.finish import SendingSummary, finish_sending
from email_platform.runs.parts import find_manifest
from email_platform.runs.send import ChunkReport, send_chunk
from email_platform.sending.orphan_watch import process_name
from email_platform.sending.progress import ChunkProgress
from resources.parts import PartsResource

PROGRESS_SECONDS = 10.0


@dg.op(ins={"campaign_audience": dg.In(dg.Nothing)}, out=dg.DynamicOut(int))
def split_into_chunks(context: dg.OpExecutionContext, parts: PartsResource) -> Iterator[dg.DynamicOutput[int]]:
    """One output per chunk of the manifest: its index, never its addresses."""
    with final_errors_end_the_run(), parts.open() as opened:
        manifest = find_manifest(opened, campaign_id_of(context.partition_key))
    if manifest.archived_at is not None:
        context.log.info("the campaign is archived: its calls are all made, and none is made again")
        return
    for chunk_index in range(manifest.chunk_count):
        yield dg.DynamicOutput(
            chunk_index,
            mapping_key=f"chunk_{chunk_index:05d}",
            metadata={"recipients": manifest.chunk_size_rows(chunk_index)},
        )


@dg.op(name="send_chunk", retry_policy=LOST_STEP)
def send_chunk_op(context: dg.OpExecutionContext, parts: PartsResource, chunk_index: int) -> dict[str, int]:
    """Make the chunk's calls that the ledger does not show as done, then stage what became of everybody."""
    stop = threading.Event()
    with only_outages_are_repeated(), ending_with_the_run(context, stop.set), parts.open() as opened:
        campaign_id = campaign_id_of(context.partition_key)
        report = send_chunk(
            opened,
            campaign_id,
            chunk_index,
            holder=process_name(context.run_id),
            stop=stop,
            on_progress=_observer(context, chunk_index),
        )
        context.add_output_metadata(_chunk_metadata(report, opened.store.bucket))
    return {"sent_calls": report.progress.sent_calls, "skipped_calls": report.progress.skipped_calls}


@dg.op
def finish_campaign(context: dg.OpExecutionContext, parts: PartsResource, reports: list[dict[str, int]]) -> None:
    """Judge from the ledger whether everybody was reached, and set the campaign to sent."""
    with final_errors_end_the_run(), parts.open() as opened:
        summary = finish_sending(opened, campaign_id_of(context.partition_key))
        sent_calls = sum(report["sent_calls"] for report in reports)
        context.add_output_metadata(_summary_metadata(summary, sent_calls, opened.store.bucket))


@dg.graph_asset(
    partitions_def=campaign_partitions,
    group_name="campaign",
    kinds={"s3", "parquet"},
    ins={"campaign_audience": dg.AssetIn(campaign_audience.key, dagster_type=dg.Nothing)},
)
def campaign_deliveries(campaign_audience: None) -> None:
    """What became of each eligible lead: accepted, rejected, unknown or abandoned, staged as Parquet per chunk.

    Grain: (campaign, lead). Materializing a finished partition again sends nothing and says so.
    """
    return finish_campaign(split_into_chunks(campaign_audience).map(send_chunk_op).collect())


def _observer(context: dg.OpExecutionContext, chunk_index: int) -> Callable[[ChunkProgress], None]:
    """Show the chunk's counts and rate every few seconds: in the run's log and on the asset's page."""
    began_seconds = last_seconds = time.monotonic()

    def observe(progress: ChunkProgress) -> None:
        nonlocal last_seconds
        now_seconds = time.monotonic()
        if now_seconds - last_seconds < PROGRESS_SECONDS:
            return
        last_seconds = now_seconds
        rate = progress.sent_recipients / (now_seconds - began_seconds)
        context.log.info(f"chunk {chunk_index}: {progress.accepted:,} accepted, {rate:,.0f} recipients a second")
        context.log_event(
            dg.AssetObservation(
                campaign_deliveries.key,
                partition=context.partition_key,
                metadata={
                    "chunk": chunk_index,
                    **_progress_metadata(progress),
                    "recipients per second": round(rate, 1),
                },
            )
        )

    return observe


def _progress_metadata(progress: ChunkProgress) -> dict[str, int]:
    return {
        "recipients": progress.recipients,
        "accepted": progress.accepted,
        "rejected": progress.rejected,
        "unknown": progress.unknown,
        "abandoned": progress.abandoned,
        "calls made now": progress.sent_calls,
        "calls found done": progress.skipped_calls,
        "calls retried": progress.retried_calls,
        "recipients deferred": progress.deferred_recipients,
    }


def _chunk_metadata(report: ChunkReport, bucket: str) -> dict[str, dg.MetadataValue | int | float]:
    metadata: dict[str, dg.MetadataValue | int | float] = {
        **_progress_metadata(report.progress),
        "seconds": round(report.seconds, 3),
        "recipients per second": round(report.progress.sent_recipients / report.seconds, 1),
    }
    if report.staged_key is not None:
        metadata["deliveries object"] = dg.MetadataValue.path(f"s3://{bucket}/{report.staged_key}")
    return metadata


def _why_nothing(summary: SendingSummary) -> str:
    archived_at = summary.manifest.archived_at
    if archived_at is None:
        return "the ledger shows everything as done"
    return f"the campaign is archived since {archived_at:%Y-%m-%d}, its ledger is in the bucket"


def _summary_metadata(
    summary: SendingSummary, sent_calls: int, bucket: str
) -> dict[str, dg.MetadataValue | int | float | str]:
    totals = summary.totals
    return {
        "campaign": summary.campaign.name,
        "status": summary.campaign.status.value,
        "status reason": summary.campaign.status_reason or "",
        "this run": (f"made {sent_calls:,} calls" if sent_calls else f"sent nothing: {_why_nothing(summary)}"),
        "eligible": summary.manifest.eligible_rows,
        "accepted": totals.accepted,
        "rejected": totals.rejected,
        "unknown": totals.unknown,
        "unknown by chunk": dg.MetadataValue.json(
            {str(index): many for index, many in summary.unknown_by_chunk.items()}
        ),
        "abandoned": totals.abandoned,
        "calls": sum(totals.calls_by_state.values()),
        "chunks": totals.chunks,
        "accounting": dg.MetadataValue.md("\n".join(f"- {line}" for line in summary.lines)),
        "deliveries objects": dg.MetadataValue.path(f"s3://{bucket}/{deliveries_prefix(summary.campaign.campaign_id)}"),
    }
