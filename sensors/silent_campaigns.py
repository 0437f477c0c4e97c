"""Waits for campaigns that should be sending while nobody works on them, and resumes them.

What a run's status says is not asked first: a run whose worker and code server died together stays STARTED for
ever. The ledger's leases and the campaign's progress are the signs of life.
"""

import dagster as dg

from assets.jobs import CAMPAIGN_ID_TAG, campaign_job
from email_platform.launching import relaunch
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.queued_campaigns import run_request

WAITING = [dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED]
AT_WORK = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def runs_of(instance: dg.DagsterInstance, campaign_id: int, statuses: list[dg.DagsterRunStatus]) -> list[dg.DagsterRun]:
    """The campaign's runs in any of the statuses."""
    return list(instance.get_runs(dg.RunsFilter(tags={CAMPAIGN_ID_TAG: str(campaign_id)}, statuses=statuses)))


@dg.sensor(
    job=campaign_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="A campaign is in sending, but neither its ledger nor its run has shown a sign of life.",
)
def silent_campaigns(
    context: dg.SensorEvaluationContext, parts: PartsResource, settings: SettingsResource
) -> dg.SensorResult:
    """End the dead run on record and ask for a new attempt; the ledger keeps it from sending anything twice."""
    requests: list[dg.RunRequest] = []
    with parts.open() as opened:
        for campaign in opened.campaigns.silent(settings.load().stall_seconds):
            if runs_of(context.instance, campaign.campaign_id, WAITING):
                continue  # its turn in the run queue has not come
            for run in runs_of(context.instance, campaign.campaign_id, AT_WORK):
                context.log.warning(f"campaign {campaign.campaign_id}: run {run.run_id} shows no life; ending it")
                context.instance.report_run_failed(run, "no sign of life in ledger or campaign: resumed by a new run")
            launch = relaunch(opened, campaign)
            if launch is not None:
                requests.append(run_request(launch))
    return dg.SensorResult(
        run_requests=requests, skip_reason=None if requests else dg.SkipReason("every sending campaign is alive")
    )
