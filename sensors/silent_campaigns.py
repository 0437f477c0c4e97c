"""Waits for campaigns that should be worked on while nobody does, and resumes them.

What a run's status says is not asked first: a run whose worker and code server died together stays STARTED for
ever. The ledger's leases and the campaign's progress are the signs of life. A campaign may also be queued for ever:
its run died before it could say ``sending``, and a run key is launched only once.
"""

from datetime import datetime

import dagster as dg

from assets.jobs import ATTEMPT_TAG, CAMPAIGN_ID_TAG, campaign_job
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.runs.launch import relaunch
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.queued_campaigns import run_request

WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def runs_of(instance: dg.DagsterInstance, campaign: Campaign) -> list[dg.RunRecord]:
    """The campaign's runs, the newest first; of a queued campaign those of its present attempt."""
    tags = {CAMPAIGN_ID_TAG: str(campaign.campaign_id)}
    if campaign.status is CampaignStatus.QUEUED:
        tags[ATTEMPT_TAG] = str(campaign.attempt)
    return list(instance.get_run_records(dg.RunsFilter(tags=tags), limit=20))


def has_a_turn(records: list[dg.RunRecord], now: datetime, stall_seconds: float) -> bool:
    """Whether a run waits in the queue, or began so lately that it may not have come to show a sign of life."""
    return any(
        record.dagster_run.status in WAITING
        or (record.dagster_run.status in AT_WORK and (now - record.update_timestamp).total_seconds() < stall_seconds)
        for record in records
    )


@dg.sensor(
    job=campaign_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A campaign is sending, or queued and due, but neither its ledger nor a run has shown a sign of life.",
)
def silent_campaigns(
    context: dg.SensorEvaluationContext, parts: PartsResource, settings: SettingsResource
) -> dg.SensorResult:
    """End the dead run on record and ask for a new attempt; the ledger keeps it from sending anything twice."""
    requests: list[dg.RunRequest] = []
    with parts.open() as opened:
        stall_seconds = settings.load().stall_seconds
        for campaign in opened.campaigns.silent(stall_seconds):
            records = runs_of(context.instance, campaign)
            if has_a_turn(records, opened.clock(), stall_seconds):
                continue
            runs = [record.dagster_run for record in records]
            if campaign.status is CampaignStatus.QUEUED and not runs:
                continue  # `queued_campaigns` will launch it
            for run in runs:
                if run.status in AT_WORK:
                    context.log.warning(f"campaign {campaign.campaign_id}: run {run.run_id} shows no life; ending it")
                    context.instance.report_run_failed(run, "no sign of life in ledger or campaign: resumed anew")
            last_run = f"run {runs[0].run_id} ({runs[0].status.value.lower()})" if runs else "no run on record"
            launch = relaunch(opened, campaign, last_run)
            if launch is not None:
                requests.append(run_request(launch))
    return dg.SensorResult(
        run_requests=requests, skip_reason=None if requests else dg.SkipReason("every campaign at work is alive")
    )
