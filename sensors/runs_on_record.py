"""What Dagster has on record of many campaigns' runs: one question for all of them.

A question for each campaign was what ended every tick of `silent_campaigns` at Dagster's 60 seconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping

import dagster as dg

from assets.jobs import ATTEMPT_TAG
from email_platform.adapters.dagster_yaml import CAMPAIGN_ID_TAG


def runs_by_campaign(instance: dg.DagsterInstance, campaign_ids: Collection[int]) -> Mapping[int, list[dg.RunRecord]]:
    """The runs of these campaigns, the newest first; every id has a list."""
    runs: dict[int, list[dg.RunRecord]] = defaultdict(list)
    if campaign_ids:
        wanted = {CAMPAIGN_ID_TAG: [str(one) for one in campaign_ids]}
        for record in instance.get_run_records(dg.RunsFilter(tags=wanted)):
            runs[int(record.dagster_run.tags[CAMPAIGN_ID_TAG])].append(record)
    return {campaign_id: runs[campaign_id] for campaign_id in campaign_ids}


def attempt_of(record: dg.RunRecord) -> int:
    """Of which attempt the run is; 0 where somebody launched it by hand."""
    tag = record.dagster_run.tags.get(ATTEMPT_TAG, "")
    return int(tag) if tag.isdecimal() else 0
