"""Providers' events: from the receivers' inbox to the warehouse and the suppressions, and their replays."""

from datetime import date

import dagster as dg

from assets.outcomes import failures_told
from email_platform.campaign_run import load_staged
from email_platform.events.staging import replay_archive, replay_quarantine, stage_inbox
from resources.events import EventsResource
from resources.parts import PartsResource
from resources.warehouse import WarehouseResource

_RETRIES = {"dagster/max_retries": "3", "dagster/retry_strategy": "ALL_STEPS"}


@dg.op(out=dg.Out(dg.Nothing))
def stage_events(context: dg.OpExecutionContext, events: EventsResource) -> None:
    """Archive, normalise and register what lies in the inbox, and write the suppressions that follow."""
    with failures_told(), events.open() as opened:
        report = stage_inbox(opened.store, opened.intake, opened.clock)
    context.add_output_metadata(
        {
            "inbox objects": report.objects,
            "bodies": report.bodies,
            "events": report.events,
            "bodies quarantined": report.problems,
            "new suppressions": report.suppressions,
        }
    )
    if report.problems:
        context.log.warning(f"{report.problems} bodies could not be read completely: see staged_object, then replay")


@dg.op(ins={"staged": dg.In(dg.Nothing)})
def load_events(context: dg.OpExecutionContext, parts: PartsResource, warehouse: WarehouseResource) -> None:
    """Load every staged object that the warehouse does not hold, in bulk."""
    with failures_told(), parts.open() as opened, warehouse.open() as clickhouse:
        report = load_staged(opened.register, clickhouse)
    context.add_output_metadata({"objects loaded now": report.objects, "rows loaded now": report.rows})
    for key, reason in report.quarantined.items():
        context.log.warning(f"quarantined {key}: {reason}")


class EventReplay(dg.Config):
    """Which bodies are read again, after a fix of what could not read them, or read them wrongly.

    Attributes:
        quarantine: every quarantined body that was not replayed yet.
        first_day, last_day: also everything archived on these days of reception (YYYY-MM-DD); empty for none.
    """

    quarantine: bool = True
    first_day: str = ""
    last_day: str = ""


@dg.op(out=dg.Out(dg.Nothing))
def replay_events(context: dg.OpExecutionContext, config: EventReplay, events: EventsResource) -> None:
    """Put the bodies back into the inbox; events that were read before are deduplicated."""
    days = [date.fromisoformat(day) for day in (config.first_day, config.last_day or config.first_day) if day]
    with failures_told(), events.open() as opened:
        quarantined = replay_quarantine(opened.store, opened.intake, opened.clock) if config.quarantine else 0
        archived = replay_archive(opened.store, opened.clock, days[0], days[-1]) if days else 0
    context.add_output_metadata({"bodies of the quarantine": quarantined, "bodies of the archive": archived})


@dg.op(ins={"replayed": dg.In(dg.Nothing)}, out=dg.Out(dg.Nothing))
def stage_replayed_events(context: dg.OpExecutionContext, events: EventsResource) -> None:
    """Stage the inbox with what was put back."""
    with failures_told(), events.open() as opened:
        report = stage_inbox(opened.store, opened.intake, opened.clock)
    context.add_output_metadata({"events": report.events, "bodies quarantined": report.problems})


@dg.job(
    executor_def=dg.in_process_executor,
    tags=_RETRIES,
    description="Stage the events in the inbox, suppress who must not be mailed any more, load everything staged.",
)
def load_events_job() -> None:
    """Stage, then load."""
    load_events(staged=stage_events())


@dg.job(
    executor_def=dg.in_process_executor,
    tags=_RETRIES,
    description="Read quarantined (and, by day, archived) bodies again after a fix. Nothing counts twice.",
)
def replay_events_job() -> None:
    """Put back, stage, load."""
    load_events(staged=stage_replayed_events(replayed=replay_events()))
