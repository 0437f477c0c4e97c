"""Waits for campaigns in ``queued`` whose time has come, and asks for one run each, small ones first.

A tick's cost does not depend on how many campaigns wait: it looks at the next few that have no run on record, and at
those that the last tick asked for. A campaign counts as launched once Dagster has its run.
"""

import json

import dagster as dg

from assets.jobs import ATTEMPT_TAG, campaign_job
from assets.partitions import campaign_partitions, partition_key
from assets.step_process import IN_ONE_PROCESS
from email_platform.adapters.dagster_yaml import CAMPAIGN_ID_TAG, CAMPAIGN_NAME_TAG, SIZE_TAG
from email_platform.runs.launch import Launch, due_launches
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.runs_on_record import attempt_of, runs_by_campaign


def run_request(launch: Launch, one_process_rows: int) -> dg.RunRequest:
    """The run of one attempt of one campaign; up to so many recipients its steps go without processes of their own."""
    return dg.RunRequest(
        run_key=launch.run_key,
        run_config=IN_ONE_PROCESS if launch.rows <= one_process_rows else None,
        partition_key=partition_key(launch.campaign_id),
        tags={
            CAMPAIGN_ID_TAG: str(launch.campaign_id),  # the run queue lets one run per value through
            CAMPAIGN_NAME_TAG: launch.name,
            ATTEMPT_TAG: str(launch.attempt),
            "dagster/priority": str(launch.priority),
            SIZE_TAG: launch.size,  # the run queue keeps a place free of large ones
        },
    )


def asked_before(cursor: str | None) -> dict[int, int]:
    """Attempts that the last tick asked for, by campaign id; empty where the cursor is of another version."""
    asked = json.loads(cursor or "{}").get("asked", {})
    return {int(campaign_id): int(attempt) for campaign_id, attempt in asked.items()}


@dg.sensor(
    job=campaign_job,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A campaign is queued and its scheduled time has come.",
)
def queued_campaigns(
    context: dg.SensorEvaluationContext, parts: PartsResource, settings: SettingsResource
) -> dg.SensorResult:
    """Add a partition and ask for a run for the next due campaigns; a run key is launched once, however often asked.

    The cursor holds which attempts were asked for.
    """
    asked = asked_before(context.cursor)
    on_record = runs_by_campaign(context.instance, asked.keys())
    made = {
        campaign_id: attempt
        for campaign_id, attempt in asked.items()
        if any(attempt_of(record) == attempt for record in on_record[campaign_id])
    }
    with parts.open() as opened:
        opened.campaigns.note_launched(made)
        due = due_launches(opened, asked.keys() - made.keys())
    for odd in due.odd:
        context.log.warning(f"not launched: {odd}")
    one_process_rows = settings.load().one_process_rows
    new_keys = [partition_key(launch.campaign_id) for launch in due.launches]
    return dg.SensorResult(
        run_requests=[run_request(launch, one_process_rows) for launch in due.launches],
        dynamic_partitions_requests=[campaign_partitions.build_add_request(new_keys)] if new_keys else [],
        cursor=json.dumps({"asked": {launch.campaign_id: launch.attempt for launch in due.launches}}),
        skip_reason=None if due.launches else dg.SkipReason("no campaign is queued and due"),
    )
