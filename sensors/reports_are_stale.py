"""Waits for loads that the reports do not show yet, and refreshes them once for all campaigns together.

While events stream in there is always something new, and a refresh costs the warehouse seconds of work however little
that is: so refreshes begin at least ``reports_interval_seconds`` apart. After a pause the first one begins at once.
Without any change there is one a day: changes that nothing reports (a suppression by hand, a renamed user) show by
then, and reports that are older than that are a fault (the freshness policies).
"""

from datetime import UTC, datetime

import dagster as dg

from assets.jobs import reports_job
from resources.parts import PartsResource
from resources.settings import SettingsResource
from sensors.staged_objects_waiting import is_running

DAY_SECONDS = 86_400.0


@dg.sensor(
    job=reports_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="The warehouse or a campaign's status has changed since the reports were last built.",
)
def reports_are_stale(
    context: dg.SensorEvaluationContext, parts: PartsResource, settings: SettingsResource
) -> dg.SensorResult:
    """Ask for one refresh per new state; while one runs or has just begun, changes gather for the next.

    The cursor is the newest change that a refresh was asked for.
    """
    if is_running(context.instance, reports_job.name):
        return dg.SensorResult(skip_reason=dg.SkipReason("a refresh is at work; changes gather for the next"))
    with parts.open() as opened:
        changed_at, now = opened.register.last_change_at(), opened.clock()
    if changed_at is None:
        return dg.SensorResult(skip_reason=dg.SkipReason("nothing was ever loaded"))
    refreshed_at, stamp = last_refresh_at(context.instance), changed_at.isoformat()
    if stamp == context.cursor:
        if refreshed_at is None or seconds_until_due(refreshed_at, now, DAY_SECONDS) > 0:
            return dg.SensorResult(skip_reason=dg.SkipReason("the reports show everything that is loaded"))
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"reports-daily-{now:%Y-%m-%d}")], cursor=stamp)
    waiting_seconds = seconds_until_due(refreshed_at, now, settings.load().reports_interval_seconds)
    if waiting_seconds > 0:
        return dg.SensorResult(
            skip_reason=dg.SkipReason(f"changes gather for the next refresh, in {waiting_seconds:.0f} s")
        )
    return dg.SensorResult(run_requests=[dg.RunRequest(run_key=f"reports-{stamp}")], cursor=stamp)


def seconds_until_due(refreshed_at: datetime | None, now: datetime, interval_seconds: float) -> float:
    """How long the next refresh must wait; 0 or less: not at all, as where there was none or the clock was set back."""
    if refreshed_at is None or refreshed_at > now:
        return 0.0
    return interval_seconds - (now - refreshed_at).total_seconds()


def last_refresh_at(instance: dg.DagsterInstance) -> datetime | None:
    """When the newest run of the reports began, whoever asked for it and however it ended."""
    records = instance.get_run_records(dg.RunsFilter(job_name=reports_job.name), limit=1)
    if not records:
        return None
    started = records[0].start_time
    return datetime.fromtimestamp(started, UTC) if started is not None else records[0].create_timestamp.astimezone(UTC)
