"""Waits for campaigns that ended long ago, and takes their keys out of Dagster's lists of partitions.

Dagster's pages and sensors stay quick up to about 100,000 keys of an asset; nothing else knows of these keys. A tick
looks at one page of keys, however many there are.
"""

import dagster as dg

from assets.partitions import CAMPAIGN_PARTITIONS_NAME, campaign_partitions, partition_key
from email_platform.runs.launch import archivable_campaigns
from resources.parts import PartsResource
from resources.settings import SettingsResource

KEYS_LOOKED_AT_PER_TICK = 1000
KEYS_REMOVED_PER_TICK = 50  # Dagster removes them one by one, in two statements each


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Campaigns were sent or cancelled so long ago that their partitions need not be listed any more.",
)
def old_campaign_partitions(
    context: dg.SensorEvaluationContext, parts: PartsResource, settings: SettingsResource
) -> dg.SensorResult:
    """Ask for the removal of such keys of one page; materializations and everything outside Dagster stay.

    The cursor is Dagster's own of the page; empty at the beginning.
    """
    page = context.instance.get_paginated_dynamic_partitions(
        CAMPAIGN_PARTITIONS_NAME, limit=KEYS_LOOKED_AT_PER_TICK, ascending=True, cursor=context.cursor or None
    )
    # A key that somebody added by hand is theirs; one that is no bigint is no campaign.
    campaign_ids = [int(name) for name in page.results if name.isdecimal() and len(name) <= 18]
    with parts.open() as opened:
        old = archivable_campaigns(opened, campaign_ids, settings.load().partition_days)
    removed = old[:KEYS_REMOVED_PER_TICK]
    next_page = page.cursor if page.has_more else ""
    cursor = (context.cursor or "") if len(removed) < len(old) else next_page  # or the rest of this one again
    if not removed:
        return dg.SensorResult(cursor=cursor, skip_reason=dg.SkipReason("no campaign of this page ended long ago"))
    context.log.info(f"archiving the partitions of {len(removed)} campaigns, {removed[0]} to {removed[-1]}")
    return dg.SensorResult(
        cursor=cursor,
        dynamic_partitions_requests=[campaign_partitions.build_delete_request([partition_key(one) for one in removed])],
    )
