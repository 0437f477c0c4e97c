"""Waits for what needs an operator, and calls one: the half of the watch that sees Dagster's own runs and checks.

The other half is a thread of the receiver, which goes on when Dagster is dead (`email_platform.alerting.watch`).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster import AssetCheckKey

from assets.events import load_events_job, replay_events_job
from assets.jobs import campaign_job, load_campaigns_job, load_staged_job, reports_job, resolve_unknown_calls_job
from assets.rebuild import rebuild_warehouse_job
from email_platform.adapters.dagster_yaml import CAMPAIGN_ID_TAG
from email_platform.alerting.condition import Condition, Kind
from email_platform.alerting.rules import check_condition, reports_condition, run_condition
from email_platform.alerting.watch import AlertParts, Finding, LookReport
from resources.alerts import AlertsResource
from sensors.runs_on_record import attempt_of, runs_by_campaign

WATCHED_JOBS = [
    job.name
    for job in (
        *(load_staged_job, load_events_job, reports_job, load_campaigns_job),
        *(replay_events_job, rebuild_warehouse_job, resolve_unknown_calls_job),
    )
]
FAILED_RUNS_LOOKED_AT = 50
DAYS_LOOKED_AT = 7
RUNS_OF_A_JOB = 5
FAILURES_IN_A_ROW = 3
RETRY_WITHIN_SECONDS = 300.0
"""A run is started again by Dagster, or its campaign by `silent_campaigns`, well within this."""
# What fails it has an alert of its own, with a better command.
OTHERWISE_ALERTED = AssetCheckKey(dg.AssetKey("warehouse_events"), "campaigns_within_limits")


def runs_finding(instance: dg.DagsterInstance, parts: AlertParts, now: datetime) -> Finding:
    """Jobs, and campaigns at work, whose runs fail; a bounded number of questions.

    A campaign that is paused or failed has an alert of its own, and the runs of its earlier attempts say nothing.
    """
    found: list[Condition] = []
    undecided: list[tuple[Kind, str]] = []
    for job in WATCHED_JOBS:
        records = instance.get_run_records(dg.RunsFilter(job_name=job), limit=RUNS_OF_A_JOB)
        judge_runs(job, "", records, now, found, undecided)
    failed = instance.get_run_records(
        dg.RunsFilter(
            job_name=campaign_job.name,
            statuses=[dg.DagsterRunStatus.FAILURE],
            updated_after=now - timedelta(days=DAYS_LOOKED_AT),
        ),
        limit=FAILED_RUNS_LOOKED_AT,
    )
    tags = [record.dagster_run.tags.get(CAMPAIGN_ID_TAG, "") for record in failed]
    attempts = parts.facts.attempts_at_work({int(tag) for tag in tags if tag.isdecimal()})
    for campaign_id, records in runs_by_campaign(instance, attempts.keys()).items():
        present = [record for record in records if attempt_of(record) in (0, attempts[campaign_id])]
        judge_runs(campaign_job.name, f"campaign {campaign_id}", present, now, found, undecided)
    return Finding(["run_failed"], found, undecided)


def judge_runs(
    job: str,
    about: str,
    records: Sequence[dg.RunRecord],
    now: datetime,
    found: list[Condition],
    undecided: list[tuple[Kind, str]],
) -> None:
    """Add what these runs say, the newest being the first: how many failed since the last one that succeeded.

    One failure is an operator's matter where nothing runs again within a few minutes; several in a row are in any case,
    however quickly the next one follows. A cancelled run says nothing.
    """
    failures: list[dg.RunRecord] = []
    for record in records:
        if record.dagster_run.status is dg.DagsterRunStatus.SUCCESS:
            break
        if record.dagster_run.status is dg.DagsterRunStatus.FAILURE:
            failures.append(record)
    if not failures:
        return
    is_at_work = any(not record.dagster_run.is_finished for record in records)
    is_fresh = (now - failures[0].update_timestamp.astimezone(UTC)).total_seconds() < RETRY_WITHIN_SECONDS
    if len(failures) < FAILURES_IN_A_ROW and (is_at_work or is_fresh):
        undecided.append(("run_failed", about or job))
    else:
        found.append(run_condition(job, failures[0].dagster_run.run_id, about))


def checks_finding(instance: dg.DagsterInstance, keys: Collection[AssetCheckKey]) -> Finding:
    """Asset checks, dbt's tests among them, whose newest result is a failure; one question for all."""
    records = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [key for key in keys if key != OTHERWISE_ALERTED]
    )
    found: list[Condition] = []
    undecided: list[tuple[Kind, str]] = []
    for key, record in records.items():
        condition = check_condition(key.asset_key.to_user_string(), key.name)
        match record.status.value:
            case "FAILED":
                found.append(condition)
            case "PLANNED":
                undecided.append((condition.kind, condition.subject))
    return Finding(["check_failed"], found, undecided)


def reports_finding(instance: dg.DagsterInstance, parts: AlertParts, now: datetime) -> Finding:
    """Whether the newest refresh that succeeded is too old for what was loaded since."""
    records = instance.get_run_records(
        dg.RunsFilter(job_name=reports_job.name, statuses=[dg.DagsterRunStatus.SUCCESS]), limit=1
    )
    refreshed_at = None
    if records:
        started = records[0].start_time
        refreshed_at = (
            records[0].create_timestamp.astimezone(UTC) if started is None else datetime.fromtimestamp(started, UTC)
        )
    oldest_change_at = parts.facts.oldest_change_after(refreshed_at)
    return Finding(["reports_late"], reports_condition(oldest_change_at, parts.limits, now))


def look_from_dagster(
    instance: dg.DagsterInstance, alerts: AlertsResource, keys: Collection[AssetCheckKey]
) -> LookReport:
    """One look, with what Dagster knows."""
    with alerts.open() as parts:
        now = parts.clock()
        findings = [
            runs_finding(instance, parts, now),
            checks_finding(instance, keys),
            reports_finding(instance, parts, now),
            alerts.warehouse_finding(),
        ]
        return alerts.look(parts, findings)


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Something needs an operator: a campaign, run, check or part failed, or a queue is late.",
)
def operator_needed(context: dg.SensorEvaluationContext, alerts: AlertsResource) -> dg.SensorResult:
    """Look once, and send what changed; it starts no run."""
    definitions = context.repository_def
    keys = definitions.asset_graph.asset_check_keys if definitions is not None else ()
    report = look_from_dagster(context.instance, alerts, keys)
    for alert in report.raised:
        context.log.warning(f"alert {alert.alert_id}: {alert.condition.happened}")
    return dg.SensorResult(
        skip_reason=dg.SkipReason(
            f"{len(report.raised)} alerts raised, {len(report.resolved)} over; {report.taken} messages taken, "
            f"{report.refused} not"
        )
    )
