"""Providers' events: from the receivers' inbox to the warehouse, the suppressions and the guard; and their replays."""

from datetime import date

import dagster as dg

from assets.catalog import DELIVERY_OWNERS, PII, WAREHOUSE
from assets.jobs import RETRY_TAGS
from assets.outcomes import final_errors_end_the_run
from assets.sources import provider_events, unsubscribe_clicks
from assets.traces import traced
from assets.warehouse import log_campaign_loads
from email_platform.events.inbox import replay_archive, replay_quarantine
from email_platform.runs.events import EventsReport, take_in_events
from email_platform.runs.load import prove_all
from resources.events import EventsResource
from resources.parts import PartsResource
from resources.settings import SettingsResource
from resources.warehouse import WarehouseResource

_KEY = dg.AssetKey("warehouse_events")
SHOWN_OBJECTS = 20


@dg.asset(
    key=_KEY,
    deps=[provider_events, unsubscribe_clicks],
    group_name=WAREHOUSE,
    owners=DELIVERY_OWNERS,
    tags=PII,
    kinds={"s3", "clickhouse"},
    check_specs=[
        dg.AssetCheckSpec(
            "everything_readable",
            asset=_KEY,
            description="every body could be read and every staged object loaded; the rest lies in the quarantine",
        ),
        dg.AssetCheckSpec(
            "campaigns_within_limits",
            asset=_KEY,
            description="no campaign is paused for its hard bounces or complaints, and every alert was taken",
        ),
    ],
)
def warehouse_events(
    context: dg.AssetExecutionContext,
    events: EventsResource,
    parts: PartsResource,
    settings: SettingsResource,
    warehouse: WarehouseResource,
) -> dg.MaterializeResult:
    """What providers reported about messages, staged from the inbox and loaded in bulk, and what follows from it.

    Suppressions are written, unknown calls are settled, and campaigns that pass a limit are paused.

    Grain: one row an event of a loaded object, append-only; the key is provider and event id.
    """
    with (
        final_errors_end_the_run(),
        traced(context, settings, "warehouse_events") as note,
        events.open() as incoming,
        parts.open() as opened,
        warehouse.open() as clickhouse,
    ):
        report = take_in_events(incoming, opened, clickhouse)
        note(_traced_counts(report))
        accounts = prove_all(opened, clickhouse, report.loaded.campaigns)
        bucket = incoming.store.bucket
    log_campaign_loads(context, report.loaded, accounts)
    for text in [*report.staged.notices, *(alert.text for alert in report.guarded.alerts)]:
        context.log.error(text)
    return dg.MaterializeResult(
        metadata=_metadata(report, bucket), check_results=[_readable_check(report), _limits_check(report)]
    )


def _metadata(report: EventsReport, bucket: str) -> dict[str, dg.MetadataValue | int | float]:
    staged, loaded = report.staged, report.loaded
    by_type = ["| type | events |", "| --- | ---: |"]
    by_type += [f"| {kind} | {count:,} |" for kind, count in sorted(staged.events_by_type.items())]
    objects = [f"- `s3://{bucket}/{key}`" for key in staged.keys[:SHOWN_OBJECTS]]
    more = len(staged.keys) - SHOWN_OBJECTS
    return {
        "inbox objects": staged.objects,
        "bodies": staged.bodies,
        "events": staged.events,
        "events by type": dg.MetadataValue.md("\n".join(by_type)),
        "bodies quarantined": staged.problems,
        "new suppressions": staged.suppressions,
        "objects loaded now": loaded.objects,
        "rows loaded now": loaded.rows,
        "unknown calls settled": report.resolved.calls,
        "unknown recipients proved": report.resolved.recipients,
        "recipients still unknown": report.resolved.recipients_unknown,
        "campaigns watched": report.guarded.watched,
        "seconds": round(report.seconds, 3),
        "events per second": round(staged.events / report.seconds, 1) if report.seconds else 0.0,
        "events objects": dg.MetadataValue.md("\n".join([*objects, *([f"- and {more} more"] if more > 0 else [])])),
    }


def _traced_counts(report: EventsReport) -> dict[str, int]:
    return {
        "email_platform.events.bodies": report.staged.bodies,
        "email_platform.events.count": report.staged.events,
        "email_platform.events.quarantined": report.staged.problems,
        "email_platform.events.suppressions": report.staged.suppressions,
        "email_platform.events.unknown_calls_settled": report.resolved.calls,
    }


def _readable_check(report: EventsReport) -> dg.AssetCheckResult:
    reasons = {**report.staged.quarantined, **report.loaded.quarantined}
    return dg.AssetCheckResult(
        check_name="everything_readable",
        asset_key=_KEY,
        passed=not reasons,
        severity=dg.AssetCheckSeverity.WARN,  # nothing is lost: see replay_events_job
        metadata={key: dg.MetadataValue.text(reason) for key, reason in reasons.items()},
    )


def _limits_check(report: EventsReport) -> dg.AssetCheckResult:
    guarded = report.guarded
    lines = [*guarded.standing, *(alert.text for alert in guarded.alerts)]
    return dg.AssetCheckResult(
        check_name="campaigns_within_limits",
        asset_key=_KEY,
        passed=not lines and not guarded.unsent_alerts,
        metadata={
            "campaigns": dg.MetadataValue.md("\n".join(f"- {line}" for line in dict.fromkeys(lines))),
            "alerts that nobody took": guarded.unsent_alerts,
        },
    )


load_events_job = dg.define_asset_job(
    "load_events_job",
    selection=dg.AssetSelection.assets(warehouse_events),
    executor_def=dg.in_process_executor,
    tags=RETRY_TAGS,
    description="Takes in the events that wait in the receivers' inbox: opt-outs, hard bounces and complaints become "
    "suppressions, unknown calls are settled, and a campaign with too many bounces or complaints is "
    "paused. The sensor `events_are_waiting` starts it; launch it where the alert `events_late` rings: "
    "until then people who opted out may be mailed.",
)


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
    with final_errors_end_the_run(), events.open() as opened:
        quarantined = replay_quarantine(opened.store, opened.intake, opened.clock) if config.quarantine else 0
        archived = replay_archive(opened.store, opened.clock, days[0], days[-1], opened.intake) if days else 0
    context.add_output_metadata({"bodies of the quarantine": quarantined, "bodies of the archive": archived})


@dg.op(ins={"replayed": dg.In(dg.Nothing)})
def take_in_replayed_events(
    context: dg.OpExecutionContext, events: EventsResource, parts: PartsResource, warehouse: WarehouseResource
) -> None:
    """Take in the inbox with what was put back, as `warehouse_events` does."""
    with final_errors_end_the_run(), events.open() as incoming, parts.open() as opened, warehouse.open() as clickhouse:
        report = take_in_events(incoming, opened, clickhouse)
        accounts = prove_all(opened, clickhouse, report.loaded.campaigns)
        metadata = _metadata(report, incoming.store.bucket)
    context.log_event(dg.AssetMaterialization(_KEY, metadata=metadata))
    for key, reason in report.staged.quarantined.items():
        context.log.warning(f"quarantined {key}: {reason}")
    log_campaign_loads(context, report.loaded, accounts)


@dg.job(
    executor_def=dg.in_process_executor,
    tags=RETRY_TAGS,
    description="Reads bodies of webhooks again that nobody could read, or that were read wrongly, after a fix: those"
    " in the quarantine, and by day those in the archive. Nothing counts twice.",
)
def replay_events_job() -> None:
    """Put back, then take in."""
    take_in_replayed_events(replayed=replay_events())
