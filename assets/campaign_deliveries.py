"""The campaign's deliveries as a graph-backed asset: split into chunks, send each, judge completeness.

campaign_audience ──▶ split_into_chunks ──▶ send_chunk [0..n] ──▶ finish_campaign
(dynamic)         one step a chunk       from the ledger

A campaign that somebody stops ends its run as cancelled: each chunk's step ends without a failure, as it did what it
could, and finish_campaign says why the campaign stopped and how it goes on.
"""

import threading
from collections.abc import Iterator, Sequence

import dagster as dg

from assets.campaign_audience import campaign_audience
from assets.catalog import CAMPAIGN, DELIVERY_OWNERS, PII
from assets.links import campaign_links
from assets.outcomes import (
    LOST_STEP,
    campaign_parts,
    only_outages_are_repeated,
    who_stopped,
)
from assets.pace import observed_pace, progress_metadata
from assets.partitions import campaign_id_of, campaign_partitions
from assets.step_process import ending_with_the_run
from assets.traces import traced
from email_platform.domain.storage_layout import deliveries_prefix
from email_platform.errors import AccountingError, CampaignStoppedError
from email_platform.runs.finish import SendingSummary, finish_sending
from email_platform.runs.parts import find_manifest
from email_platform.runs.send import ChunkReport, send_chunk
from email_platform.sending.orphan_watch import process_name
from email_platform.sending.progress import ChunkProgress
from resources.parts import PartsResource
from resources.settings import SettingsResource

_KEY = dg.AssetKey("campaign_deliveries")
_ACCOUNTING = "accounting"
_ACCOUNTING_OUT = "campaign_deliveries_accounting"  # as Dagster names the output of a graph's check


@dg.op(ins={"campaign_audience": dg.In(dg.Nothing)}, out=dg.DynamicOut(int))
def split_into_chunks(context: dg.OpExecutionContext, parts: PartsResource) -> Iterator[dg.DynamicOutput[int]]:
    """One output per chunk of the manifest: its index, never its addresses."""
    campaign_id = campaign_id_of(context.partition_key)
    with campaign_parts(context, parts, campaign_id) as opened:
        manifest = find_manifest(opened, campaign_id)
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
def send_chunk_op(
    context: dg.OpExecutionContext, parts: PartsResource, settings: SettingsResource, chunk_index: int
) -> dict[str, int]:
    """Make the chunk's calls that the ledger does not show as done, then stage what became of everybody."""
    stop = threading.Event()
    campaign_id = campaign_id_of(context.partition_key)
    seen = ChunkProgress(0)

    def noticed(progress: ChunkProgress) -> None:
        nonlocal seen
        seen = progress
        observe(progress)

    with (
        only_outages_are_repeated(campaign_id),
        ending_with_the_run(context, stop.set),
        traced(context, settings, "send_chunk", campaign_id=campaign_id, chunk_index=chunk_index),
        parts.open() as opened,
        observed_pace(context, opened, campaign_id, _KEY) as observe,
    ):
        try:
            report = send_chunk(
                opened,
                campaign_id,
                chunk_index,
                holder=process_name(context.run_id),
                stop=stop,
                on_progress=noticed,
            )
        except CampaignStoppedError as error:
            stopped = who_stopped(opened, error)
            if stopped is None:
                raise
            context.log.info(f"chunk {chunk_index} was stopped: {stopped[1].happened}")
            context.add_output_metadata({"stopped": stopped[1].happened, **progress_metadata(seen)})
            return {"sent_calls": seen.sent_calls, "skipped_calls": seen.skipped_calls}
        context.add_output_metadata(_chunk_metadata(report, opened.store.bucket))
    return {"sent_calls": report.progress.sent_calls, "skipped_calls": report.progress.skipped_calls}


@dg.op(out={"result": dg.Out(dg.Nothing), _ACCOUNTING_OUT: dg.Out(dg.Nothing)})
def finish_campaign(
    context: dg.OpExecutionContext, parts: PartsResource, settings: SettingsResource, reports: list[dict[str, int]]
) -> Iterator[dg.Output | dg.AssetCheckResult]:
    """Judge from the ledger whether everybody was reached, and set the campaign to sent."""
    campaign_id = campaign_id_of(context.partition_key)
    with campaign_parts(context, parts, campaign_id) as opened:
        try:
            summary = finish_sending(opened, campaign_id)
        except AccountingError as error:
            failed = dg.AssetCheckEvaluation(
                asset_key=_KEY,
                check_name=_ACCOUNTING,
                passed=False,
                metadata=_lines_metadata(opened.campaigns.get(campaign_id).name, str(error).split("; ")),
            )
            context.log_event(failed)  # type: ignore[arg-type]  # takes an evaluation at run time
            raise
        sent_calls = sum(report["sent_calls"] for report in reports)
        metadata = _summary_metadata(summary, sent_calls, opened.store.bucket)
    yield dg.Output(None, "result", metadata={**metadata, **campaign_links(settings, campaign_id)})
    yield dg.AssetCheckResult(
        asset_key=_KEY,
        check_name=_ACCOUNTING,
        passed=True,
        metadata=_lines_metadata(summary.campaign.name, [*map(str, summary.lines)]),
    )


@dg.graph_asset(
    partitions_def=campaign_partitions,
    group_name=CAMPAIGN,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"s3", "parquet"},
    ins={"campaign_audience": dg.AssetIn(campaign_audience.key, dagster_type=dg.Nothing)},
    check_specs=[
        dg.AssetCheckSpec(
            _ACCOUNTING,
            asset=_KEY,
            description="every eligible lead came to an end and every chunk is finished, by manifest and ledger",
        )
    ],
)
def campaign_deliveries(campaign_audience: None) -> dict[str, None]:
    """What became of each eligible lead: accepted, rejected, unknown or abandoned, staged as Parquet per chunk.

    Grain: (campaign, lead). Materializing a finished partition again sends nothing and says so.
    """
    result, accounting = finish_campaign(split_into_chunks(campaign_audience).map(send_chunk_op).collect())
    return {"result": result, _ACCOUNTING_OUT: accounting}


def _lines_metadata(campaign: str, lines: Sequence[str]) -> dict[str, dg.MetadataValue | str]:
    return {"campaign": campaign, "lines": dg.MetadataValue.md("\n".join(f"- {line}" for line in lines))}


def _chunk_metadata(report: ChunkReport, bucket: str) -> dict[str, dg.MetadataValue | int | float]:
    metadata: dict[str, dg.MetadataValue | int | float] = {
        **progress_metadata(report.progress),
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
        "deliveries objects": dg.MetadataValue.path(f"s3://{bucket}/{deliveries_prefix(summary.campaign.campaign_id)}"),
    }
