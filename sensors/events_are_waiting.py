"""Waits for events in the receivers' inbox; one run stages and loads all of them.

While calls of unknown outcome are held, it also asks for a run now and then without new events: an event that came
before its call counted as unknown is evidence too.
"""

import time

import dagster as dg

from assets.events import load_events_job
from email_platform.events.inbox import inbox_is_waiting
from resources.events import EventsResource
from resources.parts import PartsResource
from sensors.staged_objects_waiting import is_running

UNKNOWN_AGAIN_SECONDS = 300.0


@dg.sensor(
    job=load_events_job,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Verified events lie in the inbox, or may settle calls of unknown outcome.",
)
def events_are_waiting(
    context: dg.SensorEvaluationContext, events: EventsResource, parts: PartsResource
) -> dg.SensorResult:
    """Ask for one run for everything that waits; while it runs, ask for no other.

    The cursor is when a run was last asked for, in seconds since 1970.
    """
    if is_running(context.instance, load_events_job.name):
        return dg.SensorResult(skip_reason=dg.SkipReason("events are being loaded"))
    with events.open() as opened:
        waiting = inbox_is_waiting(opened.store)
    if not waiting:
        if time.time() - float(context.cursor or 0) < UNKNOWN_AGAIN_SECONDS:
            return dg.SensorResult(skip_reason=dg.SkipReason("the inbox is empty"))
        with parts.open() as campaign_parts:
            waiting = bool(campaign_parts.ledger.campaigns_with_unknown())
    if not waiting:
        return dg.SensorResult(skip_reason=dg.SkipReason("the inbox is empty, and no call's outcome is unknown"))
    return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=str(int(time.time())))
