"""Waits for staged objects, and has one run load them for all campaigns together.

While a campaign sends, its objects gather for a minute; those of a campaign whose sending is over are loaded at once.
"""

import dagster as dg

from assets.jobs import load_staged_job
from resources.parts import PartsResource

WAITING_SECONDS = 60.0  # a load is a process of its own: not one for each chunk that ends
ACTIVE = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
]


def is_running(instance: dg.DagsterInstance, job_name: str) -> bool:
    """Whether a run of the job is queued or at work."""
    return bool(instance.get_run_ids(dg.RunsFilter(job_name=job_name, statuses=ACTIVE), limit=1))


@dg.sensor(
    job=load_staged_job,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Staged objects are due to be loaded: of a campaign that has ended, or for a minute already.",
)
def staged_objects_waiting(context: dg.SensorEvaluationContext, parts: PartsResource) -> dg.SensorResult:
    """Ask for one load of everything that waits; while it runs, ask for no other."""
    if is_running(context.instance, load_staged_job.name):
        return dg.SensorResult(skip_reason=dg.SkipReason("a load is at work"))
    with parts.open() as opened:
        waiting = opened.register.objects_due(WAITING_SECONDS)
    if not waiting:
        return dg.SensorResult(skip_reason=dg.SkipReason("nothing waits"))
    return dg.SensorResult(run_requests=[dg.RunRequest(tags={"email_platform/objects": str(waiting)})])
