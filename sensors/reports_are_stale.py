"""Waits for loads that the reports do not show yet, and refreshes them once for all campaigns together."""

import dagster as dg

from assets.jobs import reports_job
from resources.parts import PartsResource
from sensors.staged_objects_waiting import is_running


@dg.sensor(
    job=reports_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="The warehouse or a campaign's status has changed since the reports were last built.",
)
def reports_are_stale(context: dg.SensorEvaluationContext, parts: PartsResource) -> dg.SensorResult:
    """Ask for one refresh per new state; while one runs, changes gather for the next.

    The cursor is the newest change that a refresh was asked for.
    """
    if is_running(context.instance, reports_job.name):
        return dg.SensorResult(skip_reason=dg.SkipReason("a refresh is at work; changes gather for the next"))
    with parts.open() as opened:
        changed_at = opened.register.last_change_at()
    if changed_at is None or changed_at.isoformat() == context.cursor:
        return dg.SensorResult(skip_reason=dg.SkipReason("the reports show everything that is loaded"))
    stamp = changed_at.isoformat()
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"reports-{stamp}")], cursor=stamp)
