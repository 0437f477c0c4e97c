"""Single emails are found by lead, address and provider's id: in their current state, and without reading all rows."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, timedelta
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner, Result

from email_platform.adapters.clickhouse import reports_database
from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import connect
from email_platform.adapters.clickhouse.lookups import LookupBy, find_emails
from email_platform.adapters.clickhouse.migrate import apply_migrations, read_migrations
from email_platform.cli.app import app
from email_platform.domain.found_email import EmailEvent
from email_platform.settings import Settings
from tests.integration.dbt_project.test_dbt_reports import NOON, Reports, about, delivery, event, reports
from tests.integration.dbt_project.test_legacy_reports import load_old, old_row

pytestmark = [pytest.mark.integration, pytest.mark.slow]
__all__ = ["reports"]

LONG = f"{'a' * 64}@{'.'.join(['b' * 63] * 4)}"
HOSTILE = ["o'brien@example.org", 'back\\slash"quote@example.org', "emoji😀@example.org", "مثال@example.org", LONG]


def test_a_replay_and_a_late_outcome_leave_one_email_in_its_newest_state(reports: Reports) -> None:
    later = NOON + timedelta(days=3)
    reports.load_deliveries(
        1, [delivery(1, 1, "unknown", NOON, provider_message_id=""), delivery(1, 2, "accepted", NOON)]
    )
    reports.load_deliveries(1, [delivery(1, 1, "accepted", later)], chunk=1)
    reports.load_deliveries(1, [delivery(1, 1, "unknown", NOON, provider_message_id="")], chunk=2)
    reports.load_deliveries(2, [delivery(2, 1, "rejected", NOON, error_code="550", error_message="no such user")])
    reports.load_events(
        event("bounced", "soft", key="b", at=later, **about(1, 1)),
        event("delivered", key="d", at=NOON, **about(1, 1)),
        event("opened", key="of another", at=NOON, **about(1, 2)),
    )
    reports.load_events(event("bounced", "soft", key="b", at=later, **about(1, 1)), event("opened", key="x"))
    without_campaign = {**about(1, 1), "campaign_id": 0}
    reports.load_events(event("clicked", key="c", at=later - timedelta(days=1), **without_campaign))

    newest, oldest = find_emails(reports.warehouse, "lead", 1, 10)
    assert (newest.campaign_id, newest.status, newest.provider_message_id) == (1, "accepted", "p-1-1")
    assert newest.events == (
        EmailEvent("delivered", "", NOON),
        EmailEvent("clicked", "", later - timedelta(days=1)),
        EmailEvent("bounced", "soft", later),
    )
    assert (oldest.campaign_id, oldest.status, oldest.error, oldest.events) == (2, "rejected", "550: no such user", ())
    assert find_emails(reports.warehouse, "lead", 1, 1) == [newest]
    assert find_emails(reports.warehouse, "address", "LEAD1@Example.ORG", 10) == [newest, oldest]
    assert find_emails(reports.warehouse, "provider_message_id", "p-1-1", 10) == [newest]
    assert find_emails(reports.warehouse, "lead", 3, 10) == []


def test_an_address_that_a_newer_row_has_changed_is_not_found_under_the_old_one(reports: Reports) -> None:
    reports.load_deliveries(1, [delivery(1, 1, "unknown", NOON, email="old@example.org")])
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON, email="new@example.org")], chunk=1)
    assert find_emails(reports.warehouse, "address", "old@example.org", 10) == []
    assert len(find_emails(reports.warehouse, "address", "new@example.org", 10)) == 1


@pytest.mark.parametrize("address", HOSTILE)
def test_a_hostile_address_is_found_in_old_and_new_emails(reports: Reports, address: str) -> None:
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON, email=address, provider_message_id="'; drop --")])
    load_old(reports, "old", [old_row(1, 900_001, 7, "sent", email=address), old_row(2, 900_001, 8, "sent")])
    found = find_emails(reports.warehouse, "address", address, 10)
    assert {(one.is_old, one.lead_id, one.email) for one in found} == {(False, 1, address), (True, 7, address)}
    assert [one.lead_id for one in find_emails(reports.warehouse, "provider_message_id", "'; drop --", 10)] == [1]


ROWS = 500_000
FILLED = f"""
    select
        intDiv(number, 10000) as campaign_id,
        number * 7919 % 500009 as lead_id,
        concat('Lead', toString(lead_id), '@example.org') as email,
        concat('p', toString(lead_id)) as provider_message_id,
        toDateTime64('2026-01-01 00:00:00', 3, 'UTC') + interval number second as happened_at
    from numbers({ROWS})
"""  # campaigns of 10,000 leads in no order, so each lead may be in any of them


def fill(client: Any) -> None:
    insert = client.command
    insert(
        "insert into delivery "
        "(campaign_id, lead_id, owner_id, message_id, email, provider_message_id, status, occurred_at) "
        "select "
        "campaign_id, lead_id, campaign_id, generateUUIDv4(), email, provider_message_id, 'accepted', happened_at "
        f"from ({FILLED})"
    )
    insert(
        "insert into legacy_email (id, campaign_id, lead_id, email, provider_message_id, status, created_at) "
        "select rowNumberInAllBlocks(), 900000 + campaign_id, lead_id, email, provider_message_id, 'sent', happened_at "
        f"from ({FILLED})"
    )


def granules(client: Any, sql: str) -> list[tuple[int, int]]:
    """Of each table of the statement, how many are read and how many there are."""
    plan = "\n".join(row[0] for row in client.query(f"explain indexes = 1 {sql}").result_rows)
    tables = [re.findall(r"Granules: (\d+)/(\d+)", table) for table in plan.split("ReadFromMergeTree")[1:]]
    return [(int(found[-1][0]), int(found[0][1])) for found in tables if found]


@pytest.mark.one_server
def test_a_look_up_reads_few_of_the_granules_of_raw_rows_and_of_reports(reports: Reports) -> None:
    fill(reports.warehouse.client)
    reports.dbt("run")
    database = reports_database(reports.settings.clickhouse_url.get_secret_value())
    by_lead, by_address, by_message = (
        "lead_id = 54321", "lower(email) = 'lead54321@example.org'", "provider_message_id = 'p54321'",
    )  # fmt: skip
    for table, conditions in {
        "delivery final": (
            by_lead, by_address, by_message,
            "owner_id = 3", "occurred_at between '2026-01-02 12:00:00' and '2026-01-02 12:01:00'",
        ),
        "legacy_email final": (by_lead, by_address, by_message),
        f"{database}.lead_history": (by_lead, by_address),
        f"{database}.email": (by_lead, by_address, by_message),
    }.items():  # fmt: skip
        for condition in conditions:
            sql = f"select campaign_id, lead_id from {table} where {condition}"
            assert reports.warehouse.client.query(sql).result_rows, sql
            read = [(some, there) for some, there in granules(reports.warehouse.client, sql) if there > 10]
            assert read, sql
            assert all(some * 5 <= there for some, there in read), (sql, read)


@pytest.mark.one_server
def test_rows_from_before_the_filters_are_found_by_them_too(stack: Settings) -> None:
    address = ClickHouseAddress.parse(stack.clickhouse_url.get_secret_value())
    database = f"test_lookups_{uuid4().hex[:8]}"
    connect(address, database="").command(f"create database {database}")
    client = connect(address, database=database)
    apply_migrations(client, [migration for migration in read_migrations() if migration.name != "lookups"])
    fill(client)
    by_address = "select lead_id from delivery final where lower(email) = 'lead54321@example.org'"
    ((read_before, there),) = granules(client, by_address)
    assert read_before == there
    assert apply_migrations(client, read_migrations()) == ["0027_lookups"]
    while client.query("select count() from system.mutations where not is_done").result_rows[0][0]:
        time.sleep(0.1)
    ((read, there),) = granules(client, by_address)
    assert read * 5 <= there
    assert client.query(by_address).result_rows == [(54321,)]


def find(reports: Reports, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
    for name, value in reports.settings.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("COLUMNS", "300")
    return CliRunner().invoke(app, ["warehouse", "find", *arguments])


def test_the_command_shows_what_became_of_each_email(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    reports.load_deliveries(1, [delivery(1, 1, "rejected", NOON, error_message="[red]not markup[/red]")])
    reports.load_deliveries(2, [delivery(2, 1, "accepted", NOON)])
    reports.load_events(event("bounced", "hard", key="b", at=NOON, **about(2, 1)))
    load_old(reports, "old", [old_row(1, 900_001, 1, "sent")])
    shown = find(reports, monkeypatch, "--lead", "1")
    assert shown.exit_code == 0, shown.output
    for text in ("[red]not markup[/red]", f"{NOON:%Y-%m-%d %H:%M:%S} UTC  bounced (hard)", "old system", "900001"):
        assert text in shown.stdout
    assert "only the newest 1 are shown" in find(reports, monkeypatch, "--lead", "1", "--limit", "1").stdout
    as_json = json.loads(find(reports, monkeypatch, "--lead", "1", "--json").stdout)
    assert [email["is_old"] for email in as_json].count(True) == 1
    assert [email["error"] for email in as_json if "not markup" in email["error"]]
    [bounced] = [event for email in as_json for event in email["events"]]
    assert (bounced["type"], bounced["subtype"]) == ("bounced", "hard")
    assert bounced["occurred_at"] == NOON.replace(tzinfo=UTC).isoformat()
    nobody = find(reports, monkeypatch, "--address", "[b]nobody@example.org")
    assert (nobody.exit_code, nobody.stdout.strip()) == (0, "no email with address '[b]nobody@example.org' is loaded")
    for wrong, why in {
        (): "give one of --lead, --address, --provider-message-id and --message-id",
        (
            "--lead",
            "1",
            "--address",
            "a@example.org",
        ): "give one of --lead, --address, --provider-message-id and --message-id",
        ("--provider-message-id", ""): "the provider message id is empty",
        ("--lead", str(2**63)): "Invalid value for '--lead'",
    }.items():
        refused = find(reports, monkeypatch, *wrong)
        assert refused.exit_code == 2
        assert why in refused.output


@pytest.mark.parametrize("by", ["lead", "address", "provider_message_id"])
def test_an_empty_warehouse_has_no_email(reports: Reports, by: LookupBy) -> None:
    assert find_emails(reports.warehouse, by, 1 if by == "lead" else "a", 10) == []
