"""Waits for campaigns in ``queued`` whose time has come, and asks for one run each."""

import json

import dagster as dg

from assets.jobs import ATTEMPT_TAG, CAMPAIGN_ID_TAG, SIZE_TAG, campaign_job
from assets.partitions import campaign_partitions, partition_key
from email_platform.runs.launch import Launch, due_launches
from resources.parts import PartsResource


def run_request(launch: Launch) -> dg.RunRequest:
    """The run of one attempt of one campaign."""
    return dg.RunRequest(
        run_key=launch.run_key,
        partition_key=partition_key(launch.campaign_id),
        tags={
            CAMPAIGN_ID_TAG: str(launch.campaign_id),  # the run queue lets one run per value through
            ATTEMPT_TAG: str(launch.attempt),
            "dagster/priority": str(launch.priority),
            SIZE_TAG: launch.size,  # the run queue keeps a place free of large ones
        },
    )


@dg.sensor(
    job=campaign_job,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A campaign is queued and its scheduled time has come.",
)
def queued_campaigns(context: dg.SensorEvaluationContext, parts: PartsResource) -> dg.SensorResult:
    """Add a partition and ask for a run per due campaign; a run key is launched once, however often asked for.

    The cursor remembers how many recipients the due campaigns have, so that those that wait are not counted again.
    """
    with parts.open() as opened:
        launches = due_launches(opened, json.loads(context.cursor or "{}"))
    new_keys = [partition_key(launch.campaign_id) for launch in launches]
    return dg.SensorResult(
        run_requests=[run_request(launch) for launch in launches],
        dynamic_partitions_requests=[campaign_partitions.build_add_request(new_keys)] if new_keys else [],
        cursor=json.dumps({launch.run_key: launch.rows for launch in launches}),
        skip_reason=None if launches else dg.SkipReason("no campaign is queued and due"),
    )
