"""The demo: campaigns from the queue to the report tables, on the real parts, with the accounting at the end.

Three campaigns are sent; the provider's events about their messages come back signed, are loaded and reported; a fourth
one to some of the same leads leaves out those that bounced or complained.

Invariant: nothing is called directly that an operator's system would not call; the sensors launch, the runs send,
the reports refresh by themselves. The demo seeds, watches, prints, and fails if any two counts differ.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console

from email_platform.adapters.assembly import open_explain, open_oltp, open_parts, open_warehouse
from email_platform.adapters.clickhouse.address import reports_database
from email_platform.adapters.clickhouse.report_frames import read_overview
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.storage_layout import deliveries_prefix
from email_platform.errors import EmailPlatformError
from email_platform.local.demo.explained import explained_lines
from email_platform.local.demo.feedback import (
    event_lines,
    feedback_is_reported,
    print_skipped,
    skipped_lines,
    stored_events,
)
from email_platform.local.demo.leads import queue_follow_up, seed_demo
from email_platform.local.demo.terminal import CampaignProgress, ProgressDisplay, print_reconciliation, print_table
from email_platform.local.demo.watch import DemoWatch
from email_platform.local.provider_simulator import AcceptedLog
from email_platform.reporting.overview_report import overview_report
from email_platform.reporting.page import write_page
from email_platform.runs.campaign_state import since_freeze
from email_platform.runs.load import account
from email_platform.runs.parts import Parts
from email_platform.settings import Settings
from email_platform.staging.accounting import AccountingLine

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 300.0  # without any change in what is watched


class DemoFailedError(EmailPlatformError):
    """The demo did not come to its end, or its accounting does not add up."""


def run_demo(settings: Settings, leads: int, seed: int, console: Console) -> None:
    """Seed, wait for the system to do its work, print the reports and the accounting.

    Args:
        settings: of a running stack with Dagster.
        leads: how many leads the database should have.
        seed: names the leads.
        console: where to print.

    Raises:
        DemoFailedError: a campaign stopped, nothing moved for minutes, or two counts differ.
    """
    console.print(f"making {leads:,} leads and the campaigns")
    with open_oltp(settings) as engine:
        began_seconds = time.monotonic()
        seeded = seed_demo(engine, leads, seed, queue_campaigns=True)
    console.print(
        f"{seeded.leads:,} leads ({seeded.added_leads:,} new, {time.monotonic() - began_seconds:.1f} s); "
        f"{len(seeded.campaigns)} campaigns "
        + ("of an interrupted demo go on by themselves" if seeded.resumed else "queued for the sensor")
    )
    with open_parts(settings) as parts, open_warehouse(settings) as warehouse:
        watch = DemoWatch(
            parts=parts,
            warehouse=warehouse,
            reports=reports_database(settings.clickhouse_url.get_secret_value()),
            campaigns=seeded.campaigns,
            log=AcceptedLog(settings.state_folder / "provider") if _is_simulated(settings) else None,
        )
        with ProgressDisplay(console) as display:
            _wait(lambda: _sent(watch, display), "the campaigns to be sent")
            display.say("sent; waiting for the warehouse")
            _wait(lambda: _loaded(watch), "the deliveries to be loaded")
            display.say("loaded; waiting for the provider's events, and for the reports that show them")
            _wait(lambda: _events_taken_in(watch), "the provider's events to be loaded")
            _wait(lambda: _reported(watch), "the reports to show the campaigns and their events")
        _print_reports(watch, console)
        console.print("queueing a fourth campaign, to some of the same leads")
        with open_oltp(settings) as engine:
            follow_up = replace(watch, campaigns=(queue_follow_up(engine, seed),))
        with ProgressDisplay(console) as display:
            _wait(lambda: _sent(follow_up, display), "the fourth campaign to be sent")
            _wait(lambda: _loaded(follow_up), "its deliveries to be loaded")
            display.say("loaded; waiting for the provider's events")
            _wait(lambda: _events_taken_in(follow_up), "the provider's events to be loaded")
        print_skipped(follow_up, console)
        lines = [*_accounting(watch), *event_lines(watch), *_accounting(follow_up), *skipped_lines(watch, follow_up)]
        with open_explain(settings) as explaining:
            everything = replace(watch, campaigns=watch.campaigns + follow_up.campaigns)
            lines += explained_lines(everything, explaining, console)
        if not print_reconciliation(lines, console=console):
            raise DemoFailedError("the accounting does not add up")


def _wait(look: Callable[[], tuple[bool, object]], what: str) -> None:
    """Call `look` until it succeeds; it returns whether it did, and a value that changes while there is progress."""
    seen: object = None
    changed_seconds = time.monotonic()
    while True:
        done, state = look()
        if done:
            return
        now_seconds = time.monotonic()
        if state != seen:
            seen, changed_seconds = state, now_seconds
        if now_seconds - changed_seconds > PATIENCE_SECONDS:
            raise DemoFailedError(
                f"waited {PATIENCE_SECONDS:.0f} s for {what} without any progress; see the runs' logs"
            )
        time.sleep(POLL_SECONDS)


_STOPPED = (CampaignStatus.FAILED, CampaignStatus.PAUSED, CampaignStatus.CANCELLED)


def _sent(watch: DemoWatch, display: ProgressDisplay) -> tuple[bool, object]:
    states = [_progress(watch, campaign.campaign_id, campaign.name) for campaign in watch.campaigns]
    display.update(states)
    for state in states:
        if state.status in _STOPPED:
            reason = watch.parts.campaigns.get(state.campaign_id).status_reason
            raise DemoFailedError(f"campaign {state.campaign_id} {state.name!r} is {state.status}: {reason}")
    return all(state.status == CampaignStatus.SENT for state in states), [
        replace(state, recipients_per_second=0.0, eta_seconds=None) for state in states
    ]


def _progress(watch: DemoWatch, campaign_id: int, name: str) -> CampaignProgress:
    campaign = watch.parts.campaigns.get(campaign_id)
    manifest = watch.parts.manifests.find(campaign_id)
    totals = watch.parts.ledger.totals(campaign_id)
    done = totals.accepted + totals.rejected + totals.unknown
    eligible = manifest.eligible_rows if manifest else 0
    rate = pace = 0.0
    if manifest is not None:
        end = campaign.finished_at or watch.parts.clock()
        rate, pace = (since_freeze(manifest, count, end) for count in (totals.accepted, done))
    return CampaignProgress(
        campaign_id=campaign_id,
        name=name,
        status=campaign.status,
        eligible=eligible,
        accepted=totals.accepted,
        rejected=totals.rejected,
        unknown=totals.unknown,
        calls=sum(totals.calls_by_state.values()),
        recipients_per_second=rate,
        eta_seconds=(eligible - done) / pace if pace else None,
        chunks_done=totals.chunks_finished,
        chunks_total=totals.chunks,
    )


def _loaded(watch: DemoWatch) -> tuple[bool, object]:
    waiting = [len(watch.parts.register.unloaded(campaign_id)) for campaign_id in watch.ids]
    return not any(waiting), waiting


def _events_taken_in(watch: DemoWatch) -> tuple[bool, object]:
    """Whether every event of the simulator is acknowledged and in the warehouse; by campaign."""
    if watch.log is None:
        return True, "a real provider sends its events in its own time"
    reported = {campaign_id: sum(watch.log.events_by_type(str(campaign_id)).values()) for campaign_id in watch.ids}
    stored = stored_events(watch)
    done = stored == reported and all(watch.log.acknowledged_events(str(one)) == reported[one] for one in reported)
    return done, stored


def _reported(watch: DemoWatch) -> tuple[bool, object]:
    exists = watch.warehouse.client.query(
        "select count() from system.tables where database = {database:String} and name = 'campaign_summary'",
        parameters={"database": watch.reports},
    ).result_rows[0][0]
    if not exists:
        return False, "no report yet"
    rows = watch.warehouse.client.query(
        f"""
        select campaign_id, accepted, status
        from {watch.reports}.campaign_summary where campaign_id in {{ids:Array(Int64)}}
        """,  # noqa: S608 (our own name)
        parameters={"ids": watch.ids},
    ).result_rows
    shown = {int(row[0]): (int(row[1]), str(row[2])) for row in rows}
    wanted = {campaign_id: (watch.parts.ledger.totals(campaign_id).accepted, "sent") for campaign_id in watch.ids}
    return shown == wanted and feedback_is_reported(watch), shown


def _print_reports(watch: DemoWatch, console: Console) -> None:
    """The marts as a consumer would read them."""
    queries = {
        "campaign_summary": """
            select campaign_id as id, name, owner_name as owner, status, considered, eligible, excluded, accepted,
                   rejected, unknown, not_attempted as not_tried, round(emails_per_minute / 60) as per_s
            from {reports}.campaign_summary where campaign_id in {{ids:Array(Int64)}} order by campaign_id
        """,
        "campaign_summary: why leads were excluded": """
            select campaign_id as id, excluded_suppressed as suppressed, excluded_unsubscribed as unsubscribed,
                   excluded_invalid_address as invalid_address, excluded_duplicate_address as duplicate_address,
                   excluded_unreadable as unreadable
            from {reports}.campaign_summary where campaign_id in {{ids:Array(Int64)}} order by campaign_id
        """,
        "campaign_summary: what became of the messages": """
            select campaign_id as id, accepted, delivered, bounced_hard, bounced_soft, complained, opened, clicked,
                   unsubscribed
            from {reports}.campaign_summary where campaign_id in {{ids:Array(Int64)}} order by campaign_id
        """,
        "sender_activity (the last days)": """
            select user_id, activity_date, campaigns, accepted, rejected, delivered, bounced_hard, complained
            from {reports}.sender_activity order by activity_date desc, accepted desc limit 6
        """,
        "campaign_recipients (some of them)": """
            select user_id, campaign_id, lead_id, email, status, error,
                   formatDateTime(occurred_at, '%F %T') as occurred_at
            from {reports}.campaign_recipients
            where campaign_id in {{ids:Array(Int64)}} order by status desc, campaign_id, lead_id limit 2 by status
        """,
        "email, the old table's columns as a view (some of them)": """
            select id, campaign_id, user_id, lead_id, email, status, formatDateTime(sent_at, '%F %T') as sent_at
            from {reports}.email
            where campaign_id in {{ids:Array(Int64)}} order by campaign_id, lead_id limit 5
        """,
    }
    for title, query in queries.items():
        result = watch.warehouse.client.query(query.format(reports=watch.reports), parameters={"ids": watch.ids})
        rows = [[_cell(value) for value in row] for row in result.result_rows]
        print_table(title, list(result.column_names), rows, console=console)


def _cell(value: Any) -> Any:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 1)
    return str(value)


def _accounting(watch: DemoWatch) -> list[AccountingLine]:
    """Every line of every campaign: manifest, ledger, Parquet, ClickHouse, and the provider's own log."""
    lines: list[AccountingLine] = []
    for campaign in watch.campaigns:
        campaign_id = campaign.campaign_id
        own = account(watch.parts, watch.warehouse, campaign_id)
        accepted = watch.parts.ledger.totals(campaign_id).accepted
        own.append(
            AccountingLine(
                "accepted rows in the Parquet objects",
                ("ledger", accepted),
                ("objects", _accepted_in_objects(watch.parts, campaign_id)),
            )
        )
        if watch.log is not None:
            summary = watch.log.summary(str(campaign_id))
            own += [
                AccountingLine(
                    "accepted by the provider's own log", ("ledger", accepted), ("provider", summary.accepted_rows)
                ),
                AccountingLine(
                    "each lead accepted once",
                    ("provider's rows", summary.accepted_rows),
                    ("message ids", summary.distinct_message_ids),
                ),
            ]
        lines += [replace(line, name=f"campaign {campaign_id}: {line.name}") for line in own]
    return lines


def _is_simulated(settings: Settings) -> bool:
    """Whether the provider is the embedded simulator, whose log can be read."""
    return (settings.state_folder / "provider" / "provider.sqlite3").exists()


def _accepted_in_objects(parts: Parts, campaign_id: int) -> int:
    """Counted from the objects themselves, not from the register."""
    accepted = 0
    for found in parts.store.list(deliveries_prefix(campaign_id)):
        with parts.store.reader(found.key) as reader:
            statuses = pq.read_table(reader, columns=["status"]).column("status")
        accepted += int(pc.sum(pc.equal(statuses, "accepted")).as_py() or 0)
    return accepted


def second_terminal_lines(settings: Settings) -> Sequence[str]:
    """What to look at while it works."""
    return (
        f"console and HTTP API: http://127.0.0.1:{settings.api_port}/",
        f"Dagster's UI: http://127.0.0.1:{settings.dagster_port}/",
        "in a second terminal, in this folder: .venv/bin/email-platform status --watch",
    )


def write_report(settings: Settings) -> Path:
    """The overview of all campaigns as one file in the state folder, which outlives the stack."""
    file = settings.state_folder / "report.html"
    with open_warehouse(settings) as warehouse:
        write_page(file, overview_report(read_overview(warehouse)))
    return file


def summary_lines(settings: Settings, seconds: float, report: Path, *, keeps_running: bool) -> Sequence[str]:
    """Where to look next."""
    until = "" if keeps_running else " (it ends with the demo; `make up` starts it again, with all that was sent)"
    return (
        f"done in {seconds:.0f} s; every line of the accounting holds",
        f"the report, a file that needs no network: {report.as_uri()}",
        f"console and HTTP API: http://127.0.0.1:{settings.api_port}/{until}; "
        "a key for it: .venv/bin/email-platform api-key add me --role operator",
        f"the runs, assets and their metadata: http://127.0.0.1:{settings.dagster_port}/{until}",
        "in a second terminal, in this folder: .venv/bin/email-platform campaign list",
    )
