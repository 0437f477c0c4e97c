"""Waits for campaigns that ended long ago, and takes their keys out of Dagster's lists of partitions.

Dagster's pages and sensors stay quick up to about 100,000 keys of an asset; nothing else knows of these keys.
"""

import dagster as dg

from assets.partitions import CAMPAIGN_PARTITIONS_NAME, campaign_partitions, partition_key
from email_platform.runs.launch import archivable_campaigns
from resources.parts import PartsResource
from resources.settings import SettingsResource

KEYS_PER_TICK = 1000  # so that one tick stays far below its 60 seconds


@dg.sensor(
    minimum_interval_seconds=3600,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Campaigns were sent or cancelled so long ago that their partitions need not be listed any more.",
)
def old_campaign_partitions(
    context: dg.SensorEvaluationContext, parts: PartsResource, settings: SettingsResource
) -> dg.SensorResult:
    """Ask for the removal of the oldest such keys; materializations and everything outside Dagster stay."""
    names = context.instance.get_dynamic_partitions(CAMPAIGN_PARTITIONS_NAME)
    campaign_ids = [int(name) for name in names if name.isdecimal()]  # a key that somebody added by hand is theirs
    with parts.open() as opened:
        old = archivable_campaigns(opened, campaign_ids, settings.load().partition_days)[:KEYS_PER_TICK]
    if not old:
        return dg.SensorResult(skip_reason=dg.SkipReason("no campaign ended long enough ago"))
    context.log.info(f"archiving the partitions of {len(old)} campaigns, {old[0]} to {old[-1]}")
    return dg.SensorResult(
        dynamic_partitions_requests=[campaign_partitions.build_delete_request([partition_key(one) for one in old])]
    )
