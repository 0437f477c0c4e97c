"""Waits for events in the receivers' inbox; one run stages and loads all of them."""

import dagster as dg

from assets.events import load_events_job
from email_platform.events.staging import inbox_is_waiting
from resources.events import EventsResource
from sensors.staged_objects_waiting import is_running


@dg.sensor(
    job=load_events_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Verified events lie in the inbox: stage, suppress and load them.",
)
def events_are_waiting(context: dg.SensorEvaluationContext, events: EventsResource) -> dg.SensorResult:
    """Ask for one run for everything that waits; while it runs, ask for no other."""
    if is_running(context.instance, load_events_job.name):
        return dg.SensorResult(skip_reason=dg.SkipReason("events are being loaded"))
    with events.open() as opened:
        if not inbox_is_waiting(opened.store):
            return dg.SensorResult(skip_reason=dg.SkipReason("the inbox is empty"))
    return dg.SensorResult(run_requests=[dg.RunRequest()])
