"""Waits for staged objects that no run has loaded: those of paused, cancelled or dead campaigns."""

import dagster as dg

from assets.jobs import load_staged_job
from resources.parts import PartsResource

WAITING_SECONDS = 60.0  # a live campaign's run loads its own objects at its end
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
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Objects have been in the staging area for a while and the warehouse does not hold them.",
)
def staged_objects_waiting(context: dg.SensorEvaluationContext, parts: PartsResource) -> dg.SensorResult:
    """Ask for one load of everything that waits; while it runs, ask for no other."""
    if is_running(context.instance, load_staged_job.name):
        return dg.SensorResult(skip_reason=dg.SkipReason("a load is at work"))
    with parts.open() as opened:
        waiting = opened.register.waiting_objects(WAITING_SECONDS)
    if not waiting:
        return dg.SensorResult(skip_reason=dg.SkipReason("nothing waits"))
    return dg.SensorResult(run_requests=[dg.RunRequest(tags={"email_platform/objects": str(waiting)})])
