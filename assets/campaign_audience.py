"""The frozen audience of a campaign as an asset: one partition, one manifest in the bucket."""

import time

import dagster as dg

from assets.catalog import CAMPAIGN, DELIVERY_OWNERS, PII
from assets.links import campaign_links
from assets.outcomes import campaign_parts
from assets.partitions import campaign_id_of, campaign_partitions
from assets.sources import campaign_table, lead_table, sender_table, suppression_table
from email_platform.adapters.dagster_yaml import CAMPAIGN_NAME_TAG
from email_platform.domain.storage_layout import eligible_key, excluded_key
from email_platform.runs.freeze import FrozenAudience, freeze_audience
from resources.parts import PartsResource
from resources.settings import SettingsResource

PROGRESS_SECONDS = 5.0


@dg.asset(
    partitions_def=campaign_partitions,
    deps=[campaign_table, sender_table, lead_table, suppression_table],
    group_name=CAMPAIGN,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"postgres", "s3", "parquet"},
)
def campaign_audience(
    context: dg.AssetExecutionContext, parts: PartsResource, settings: SettingsResource
) -> dg.MaterializeResult:
    """Every lead that meets the campaign's condition, eligible or excluded with the reason, frozen in S3.

    Grain: one row a considered lead. A second materialization reads the manifest and resolves nothing.
    """
    campaign_id = campaign_id_of(context.partition_key)
    began_seconds = last_seconds = time.monotonic()

    def on_progress(rows: int) -> None:
        nonlocal last_seconds
        now_seconds = time.monotonic()
        if now_seconds - last_seconds >= PROGRESS_SECONDS:
            last_seconds = now_seconds
            context.log.info(f"{rows:,} leads considered, {rows / (now_seconds - began_seconds):,.0f} a second")

    with campaign_parts(context, parts, campaign_id) as opened:
        name_the_run(context, opened.campaigns.get(campaign_id).name)
        audience = freeze_audience(opened, campaign_id, on_progress)
        bucket = opened.store.bucket
    metadata = _metadata(audience, bucket, time.monotonic() - began_seconds)
    return dg.MaterializeResult(metadata={**metadata, **campaign_links(settings, campaign_id)})


def name_the_run(context: dg.AssetExecutionContext, name: str) -> None:
    """Give a run that somebody launched by hand the tag that the sensors' runs have: the campaign's name."""
    if CAMPAIGN_NAME_TAG not in context.run.tags:
        context.instance.add_run_tags(context.run.run_id, {CAMPAIGN_NAME_TAG: name})


def _metadata(audience: FrozenAudience, bucket: str, seconds: float) -> dict[str, dg.MetadataValue]:
    manifest = audience.manifest
    excluded = "\n".join(
        ["| reason | leads |", "| --- | ---: |"]
        + [f"| {reason} | {leads:,} |" for reason, leads in manifest.excluded_by_reason.items()]
    )
    return {
        "campaign": dg.MetadataValue.text(audience.campaign.name),
        "frozen by": dg.MetadataValue.text(
            "this run" if audience.frozen_now else "an earlier run: nothing was resolved again"
        ),
        "considered": dg.MetadataValue.int(manifest.considered_rows),
        "eligible": dg.MetadataValue.int(manifest.eligible_rows),
        "excluded": dg.MetadataValue.int(manifest.excluded_rows),
        "excluded by reason": dg.MetadataValue.md(excluded),
        "chunks": dg.MetadataValue.int(manifest.chunk_count),
        "rows per chunk": dg.MetadataValue.int(manifest.chunk_rows),
        "recipients per call": dg.MetadataValue.int(manifest.call_rows),
        "seconds": dg.MetadataValue.float(round(seconds, 3)),
        "leads per second": dg.MetadataValue.float(round(manifest.considered_rows / seconds, 1) if seconds else 0.0),
        "condition": dg.MetadataValue.json(manifest.condition or audience.campaign.condition),
        "eligible object": dg.MetadataValue.path(f"s3://{bucket}/{eligible_key(manifest.prefix)}"),
        "excluded object": dg.MetadataValue.path(f"s3://{bucket}/{excluded_key(manifest.prefix)}"),
    }
