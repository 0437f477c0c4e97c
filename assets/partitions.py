"""One dynamic partition per campaign; its key is the campaign's id in decimal."""

from __future__ import annotations

import dagster as dg

CAMPAIGN_PARTITIONS_NAME = "campaign"
campaign_partitions = dg.DynamicPartitionsDefinition(name=CAMPAIGN_PARTITIONS_NAME)


def partition_key(campaign_id: int) -> str:
    """The partition of a campaign."""
    return str(campaign_id)


def campaign_id_of(key: str) -> int:
    """The campaign of a partition.

    Raises:
        dagster.Failure: somebody added a partition by hand that is no campaign id.
    """
    if not key.isdecimal():
        raise dg.Failure(
            f"partition {key!r} is no campaign id; partitions are added by the sensor `queued_campaigns`",
            allow_retries=False,
        )
    return int(key)
