"""Waits for campaigns that should be worked on while nobody does, and resumes them.

A run's status is not asked first: a run whose worker and code server died together stays STARTED for
ever. The ledger's leases and the campaign's progress are the signs of life. A campaign may also be queued for ever:
its run died before it could say ``sending``, and a run key is launched only once.

A tick's cost does not depend on how many campaigns are silent: it looks at the next few by id, asks Dagster once for
the runs of all of them, and goes on after them at the next tick. A new attempt is counted once its run is on record.
"""

import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime

import dagster as dg

from assets.jobs import MAX_RETRIES_TAG, campaign_job
from assets.partitions import campaign_partitions, partition_key
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.errors import PartUnavailableError
from email_platform.runs.launch import Relaunch, progress_mark, relaunch
from email_platform.runs.parts import Parts
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.queued_campaigns import run_request
from sensors.runs_on_record import attempt_of, runs_by_campaign

WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
CAMPAIGNS_PER_TICK = 50
RELAUNCHES_PER_TICK = 4  # each ends a dead run on record and makes a new one
ENDING_SECONDS = 0.3
"""For ending dead runs on record, in one tick: each takes Dagster 50 to 250 ms. One is ended in any case."""


def has_a_turn(records: Sequence[dg.RunRecord], now: datetime, stall_seconds: float) -> bool:
    """Whether a run waits in the queue, or began so lately that it may not have come to show a sign of life."""
    return any(
        record.dagster_run.status in WAITING
        or (record.dagster_run.status in AT_WORK and (now - record.update_timestamp).total_seconds() < stall_seconds)
        for record in records
    )


def of_present_attempt(campaign: Campaign, records: Sequence[dg.RunRecord]) -> list[dg.RunRecord]:
    """The runs that say something of the campaign; of a queued one those of earlier attempts say nothing."""
    if campaign.status is CampaignStatus.QUEUED:
        return [record for record in records if attempt_of(record) >= campaign.attempt]
    return list(records)


def count_attempts(
    parts: Parts, asked: Mapping[str, Sequence[int]], on_record: Mapping[int, Sequence[dg.RunRecord]]
) -> None:
    """Count the attempts that the last tick asked for and that Dagster has made."""
    for campaign_id, (attempt, mark) in asked.items():
        if any(attempt_of(record) == attempt for record in on_record[int(campaign_id)]):
            parts.campaigns.begin_attempt(int(campaign_id), attempt, mark)


def resume(
    context: dg.SensorEvaluationContext,
    parts: Parts,
    campaign: Campaign,
    records: Sequence[dg.RunRecord],
) -> Relaunch | None:
    """End the campaign's dead run on record and give its next attempt; None where it needs none, or not now."""
    runs = [record.dagster_run for record in records]
    for run in runs:
        if run.status in AT_WORK:
            context.log.warning(f"campaign {campaign.campaign_id}: run {run.run_id} shows no life; ending it")
            # The new attempt is its retry: one by Dagster beside it would send nothing, and take a run's place.
            context.instance.add_run_tags(run.run_id, {MAX_RETRIES_TAG: "0"})
            context.instance.report_run_failed(run, "no sign of life in ledger or campaign: a new attempt follows")
    newest = max((attempt_of(record) for record in records), default=0)
    if newest > campaign.attempt:  # made, and not counted: the cursor that asked for it was lost
        mark = progress_mark(parts.ledger.totals(campaign.campaign_id))
        parts.campaigns.begin_attempt(campaign.campaign_id, newest, mark)
        return None
    last_run = f"run {runs[0].run_id} ({runs[0].status.value.lower()})" if runs else "no run on record"
    return relaunch(parts, campaign, last_run)


@dg.sensor(
    job=campaign_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A campaign is sending, or queued and due, but neither its ledger nor a run has shown a sign of life.",
)
def silent_campaigns(
    context: dg.SensorEvaluationContext, parts: PartsResource, settings: SettingsResource
) -> dg.SensorResult:
    """End dead runs on record and ask for new attempts; the ledger keeps them from sending anything twice.

    The cursor holds after which campaign to go on, and which attempts were asked for, with how far each campaign was.
    """
    cursor = json.loads(context.cursor or "{}")
    asked: Mapping[str, Sequence[int]] = cursor.get("asked", {})
    after_id = int(cursor.get("after", 0))
    relaunches: list[Relaunch] = []
    with parts.open() as opened:
        loaded = settings.load()
        stall_seconds = loaded.stall_seconds
        campaigns = opened.campaigns.silent(stall_seconds, after_id, CAMPAIGNS_PER_TICK)
        on_record = runs_by_campaign(
            context.instance, {*map(int, asked), *(campaign.campaign_id for campaign in campaigns)}
        )
        count_attempts(opened, asked, on_record)
        after_id = campaigns[-1].campaign_id if len(campaigns) == CAMPAIGNS_PER_TICK else 0  # from the beginning again
        handled, began_seconds = 0, time.monotonic()
        for campaign in campaigns:
            records = of_present_attempt(campaign, on_record[campaign.campaign_id])
            if str(campaign.campaign_id) in asked or has_a_turn(records, opened.clock(), stall_seconds):
                continue  # asked for just now, counted or in vain: its turn comes again
            if handled == RELAUNCHES_PER_TICK or (handled and time.monotonic() - began_seconds > ENDING_SECONDS):
                after_id = campaign.campaign_id - 1
                break
            handled += 1
            try:
                one = resume(context, opened, campaign, records)
            except PartUnavailableError:
                raise
            except Exception as error:
                context.log.warning(f"campaign {campaign.campaign_id} was not looked at: {type(error).__name__}")
                continue
            if one is not None:
                relaunches.append(one)
    # A key that somebody removed, or that was archived, would fail the tick for all campaigns of it.
    keys = [partition_key(one.launch.campaign_id) for one in relaunches]
    return dg.SensorResult(
        run_requests=[run_request(one.launch, loaded.one_process_rows) for one in relaunches],
        dynamic_partitions_requests=[campaign_partitions.build_add_request(keys)] if keys else [],
        cursor=json.dumps(
            {
                "after": after_id,
                "asked": {one.launch.campaign_id: (one.launch.attempt, one.mark) for one in relaunches},
            }
        ),
        skip_reason=None if relaunches else dg.SkipReason("every campaign at work is alive"),
    )
