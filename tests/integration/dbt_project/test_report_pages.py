"""A campaign's report and the overview as HTML: from raw rows through dbt and ClickHouse to the file of the command."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from email_platform.adapters.clickhouse import reports_database
from email_platform.cli.app import app
from email_platform.reporting.frames import MOST_BUCKETS, MOST_DOMAINS
from tests.integration.dbt_project.test_dbt_reports import (
    HOSTILE,
    NOON,
    Reports,
    about,
    campaign,
    delivery,
    event,
    reports,
    user,
)
from tests.unit.reporting.page_reading import PageText

pytestmark = [pytest.mark.integration, pytest.mark.slow]

__all__ = ["reports"]

LEADS = 2_400
TAGGED = f"<script>alert(1)</script>{HOSTILE}"
DOMAINS = ("gmail.example", "outlook.example", "yahoo.example", "web.example", "kunde.example", "<b>&.example")
CODES = ("550 5.1.1 no such user", "552 5.2.2 mailbox full", "554 5.7.1 policy")


def load_world(reports: Reports) -> None:
    """Campaign 1 with 2,400 recipients and their events over two days, and campaign 2 with one recipient."""
    deliveries: list[Mapping[str, Any]] = []
    events: list[Mapping[str, Any]] = []
    for lead in range(LEADS):
        at = NOON + timedelta(milliseconds=250 * lead)
        domain = DOMAINS[min(lead % 11, lead % 7, 5)]
        if lead % 200 == 7:
            deliveries.append(delivery(1, lead, "rejected", at, error_code="550", email=f"l{lead}@{domain}"))
            continue
        deliveries.append(delivery(1, lead, "accepted", at, email=f"l{lead}@{domain}"))
        on = about(1, lead)
        if lead % 30 == 1:
            details = f'{{"reason": "{CODES[lead % 3]}"}}'
            hard = "hard" if lead % 60 == 1 else "soft"
            events.append(event("bounced", hard, key=f"b{lead}", at=at + timedelta(seconds=9), details=details, **on))
            continue
        events.append(event("delivered", key=f"d{lead}", at=at + timedelta(seconds=5 + lead % 50), **on))
        opened = at + timedelta(minutes=(lead * lead) % 2_000)
        for kind, every in (("opened", 3), ("clicked", 12), ("unsubscribed", 80), ("complained", 900)):
            if lead % every == 0:
                events.append(event(kind, key=f"{kind}{lead}", at=opened, **on))  # type: ignore[arg-type]
    reports.load_deliveries(1, deliveries)
    reports.load_deliveries(2, [delivery(2, 1, "accepted", NOON + timedelta(days=3))])
    reports.load_events(*events)
    first = campaign(1, eligible=LEADS, excluded=130, name=TAGGED)
    reports.load_dimensions(
        {"app_user": [user(1)], "campaign": [first, campaign(2, eligible=2, status="sending", finished_at=None)]},
        NOON + timedelta(days=4),
    )
    reports.models()


def run(*words: str) -> Any:
    return CliRunner().invoke(app, ["report", *words])


def test_a_report_and_the_overview_show_what_the_marts_count(
    reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in reports.settings.variables().items():
        monkeypatch.setenv(name, value)
    empty = tmp_path / "empty.html"
    reports.models()
    assert run("--all", "--html", str(empty)).exit_code == 0
    assert "No campaign is in the reports yet" in empty.read_text(encoding="utf-8")

    load_world(reports)
    report, overview = tmp_path / "17.html", tmp_path / "overview.html"
    report.write_text("an older report")
    result = run("1", "--html", str(report))
    assert result.exit_code == 0, result.output
    assert run("--all", "--html", str(overview)).exit_code == 0
    assert sorted(path.name for path in tmp_path.glob("*.part")) == []

    summary = reports.rows("campaign_summary", "campaign_id")[0]
    page = PageText.of(report.read_text(encoding="utf-8"))
    assert page.row("audience", "to be mailed")[1] == f"{LEADS:,}"
    assert page.row("audience", "address suppressed")[1] == "130"
    for label, name in (("accepted by the provider", "accepted"), ("delivered", "delivered"), ("opened", "opened"),
                        ("clicked", "clicked"), ("bounced for good", "bounced_hard")):  # fmt: skip
        assert page.row("outcome", label)[1] == f"{summary[name]:,}", label
    for section, column, name in (("sending", 1, "accepted"), ("reactions", 1, "delivered"), ("reactions", 2, "opened"),
                                  ("unsubscribes", 1, "unsubscribed"), ("domains", 1, "eligible")):  # fmt: skip
        assert page.sum(section, column) == summary[name], (section, name)
    assert page.sum("reasons", 3) == sum(row["recipients"] for row in reports.rows("bounce_reasons", "1"))
    assert {row[0] for row in page.tables["domains"]} == set(DOMAINS)
    assert "<script" not in report.read_text(encoding="utf-8").lower()

    every = PageText.of(overview.read_text(encoding="utf-8"))
    assert [row[0] for row in every.tables["campaigns"]] == ["2", "1"]
    assert every.sum("campaigns", 5) == summary["accepted"] + 1
    assert every.sum("days", 1) == summary["accepted"] + 1
    assert [row[0] for row in every.tables["days"]] == [f"{NOON + timedelta(days=day):%Y-%m-%d}" for day in range(4)]


def the_campaign_is_named_and_no_file_appears(page: Path, exit_code: int, problem: str) -> None:
    result = run("17", "--html", str(page))
    assert result.exit_code == exit_code
    assert re.search(problem, result.output)
    assert not page.exists()


def test_a_page_of_a_million_recipients_in_ten_thousand_domains_is_small_and_counts_each(
    reports: Reports, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever times events carry: some open in 1970, some in 2290. And a campaign that the reports lack is named."""
    for name, value in reports.settings.variables().items():
        monkeypatch.setenv(name, value)
    the_campaign_is_named_and_no_file_appears(tmp_path / "report.html", 2, "")
    reports.models()
    the_campaign_is_named_and_no_file_appears(tmp_path / "report.html", 1, r"no campaign 17: .*refresh")
    database = reports_database(reports.settings.clickhouse_url.get_secret_value())
    for statement in (
        f"insert into {database}.campaign_summary (campaign_id, considered, eligible, delivered, opened) "
        "values (17, 1000000, 1000000, 1000000, 1000000)",
        f"insert into {database}.int_domain_counts (campaign_id, recipient_domain, accepted, delivered) "
        "select 17, concat('d', toString(number), '.example'), 100, 100 from numbers(10000)",
        f"""
        create or replace view {database}.campaign_recipients as
        with toDateTime64('2026-03-28 12:00:00', 3, 'UTC') + toIntervalSecond(number % 20000) as at
        select
            17 as campaign_id,
            number as lead_id,
            'accepted' as outcome,
            at as occurred_at,
            toNullable(at + toIntervalMinute(number % 9)) as delivered_at,
            toNullable(multiIf(
                number = 0, toDateTime64('1970-01-01 00:00:00', 3, 'UTC'),
                number = 1, toDateTime64('2290-01-01 00:00:00', 3, 'UTC'),
                at
            )) as opened_at,
            nullIf(at, at) as clicked_at,
            clicked_at as bounced_at,
            clicked_at as complained_at,
            clicked_at as unsubscribed_at
        from numbers(1000000)
        """,
    ):
        reports.warehouse.client.command(statement)
    file = tmp_path / "report.html"
    result = run("17", "--html", str(file))
    assert result.exit_code == 0, result.output
    assert file.stat().st_size < 200_000
    page = PageText.of(file.read_text(encoding="utf-8"))
    assert page.sum("sending", 1) == page.sum("reactions", 1) == page.sum("reactions", 2) == 1_000_000
    assert page.sum("domains", 1) == 1_000_000
    assert page.row("domains", "all others")[1] == f"{100 * (10_000 - MOST_DOMAINS):,}"
    assert max(len(page.tables[section]) for section in ("sending", "reactions")) <= MOST_BUCKETS + 1
