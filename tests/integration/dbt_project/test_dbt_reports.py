"""`dbt build` passes on an empty warehouse, on hostile data and after late changes, and the reports say the truth."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from assets.catalog import holds_addresses
from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.clickhouse import dbt_environment, reports_database
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.odd_rows import OddRow
from email_platform.domain.ports import StagedKind, StagedObject
from email_platform.domain.storage_layout import deliveries_key, event_normalised_key
from email_platform.events.event import EVENT_SCHEMA, EventType, status_rank
from email_platform.settings import Settings
from email_platform.staging.delivery_rows import DELIVERY_SCHEMA, DeliveryStatus, delivery_version
from email_platform.staging.dimensions import DIMENSION_SCHEMAS, DimensionName, refresh_dimensions
from tests.integration.another_warehouse import on_cluster
from tests.integration.forked_dbt import run_dbt
from tests.integration.own_databases import change_in_place, own_warehouse

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PROJECT = Path(__file__).parents[3] / "dbt_reports"
MARTS = tuple(sorted(path.stem for path in (PROJECT / "models" / "marts").glob("*.sql")))
NOON = datetime(2026, 3, 28, 12, tzinfo=UTC)
HOSTILE = 'it\'s "q" `b` \\N \t\n;-- {{ x }} {% raw %} \u202eشلم 😀 %s '
HOSTILE_DOMAIN = "ДОМЕН\"'\u202e😀.example"
LONGEST_ADDRESS = f"{'l' * 64}@{'d' * 251}.org"


def test_every_mart_is_described_tested_and_read_by_somebody() -> None:
    models = PROJECT / "models"
    unit_tests = yaml.safe_load((models / "marts" / "marts_unit_tests.yml").read_text(encoding="utf-8"))["unit_tests"]
    exposures = yaml.safe_load((models / "exposures.yml").read_text(encoding="utf-8"))["exposures"]
    read = {reference for exposure in exposures for reference in exposure["depends_on"]}
    with_logic = set(MARTS) - {"lead_history"}  # columns as they are; a data test compares its rows
    assert {test["model"] for test in unit_tests} == with_logic
    for mart in MARTS:
        (model,) = yaml.safe_load((models / "marts" / f"{mart}.yml").read_text(encoding="utf-8"))["models"]
        assert model["name"] == mart
        assert "Grain:" in model["description"], mart
        assert all(column["description"] for column in model["columns"]), mart
        assert f"ref('{mart}')" in read, mart


@dataclass(frozen=True, slots=True)
class Reports:
    """A warehouse of the test's own and what dbt makes of it.

    Attributes:
        folder: its name keeps this test's objects apart from those of others.
        target: dbt's; tests whose databases have the same name share it, so that the project is parsed once.
    """

    settings: Settings
    warehouse: ClickHouseWarehouse
    store: S3ObjectStore
    folder: Path
    target: Path

    def build(self, *arguments: str) -> None:
        """Run `dbt build` and fail with what it printed where a model, test or warning does not pass.

        Unit tests look at no data: they have a test of their own.
        """
        self._make("build", "--exclude-resource-type", "unit_test", *arguments)

    def models(self, *arguments: str) -> None:
        """Run `dbt run`: a build without the data tests, which are most of it, for what a later build tests anyway."""
        self._make("run", "--no-write-json", *arguments)

    def _make(self, *arguments: str) -> None:
        statuses = self.dbt(*arguments)
        assert set(statuses.values()) <= {"success", "pass", "no-op"}, statuses  # no-op: an exposure
        assert {f"model.email_reports.{mart}" for mart in MARTS} <= set(statuses)

    def dbt(self, *arguments: str) -> dict[str, str]:
        """Run dbt; the statuses of what it ran."""
        url = self.settings.clickhouse_url.get_secret_value()
        warehouse = dbt_environment(url, sharded=self.settings.clickhouse_sharded)
        environment = {**os.environ, **warehouse, "DBT_SEND_ANONYMOUS_USAGE_STATS": "false"}
        code, statuses, printed = run_dbt(arguments, PROJECT, self.target, environment)
        assert code == 0, printed
        assert warehouse["EMAIL_PLATFORM_DBT_PASSWORD"] not in printed + (self.target / "dbt.log").read_text()
        return statuses

    def rows(self, mart: str, order_by: str) -> list[dict[str, Any]]:
        database = reports_database(self.settings.clickhouse_url.get_secret_value())
        result = self.warehouse.client.query(f"select * from {database}.{mart} order by {order_by}")
        return [dict(row) for row in result.named_results()]

    def load_deliveries(self, campaign_id: int, rows: list[Mapping[str, Any]], chunk: int = 0) -> None:
        self._load("delivery", deliveries_key(campaign_id, chunk), rows, DELIVERY_SCHEMA)

    def load_events(self, *rows: Mapping[str, Any]) -> None:
        key = event_normalised_key(NOON.date(), sha256(repr(rows).encode()).hexdigest()[:32])
        self._load("event", key, list(rows), EVENT_SCHEMA)

    def _load(self, kind: StagedKind, key: str, rows: list[Mapping[str, Any]], schema: pa.Schema) -> None:
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
        # The warehouses of this module share a bucket, not a database: keep their objects apart.
        key = f"{self.folder.name}/{key}"
        self.store.put(key, buffer.getvalue())
        staged = StagedObject(key, kind, len(rows), sha256(buffer.getvalue()).hexdigest())
        assert self.warehouse.load(staged) == len(rows)

    def statuses(self, campaign_id: int) -> list[str]:
        """The present status of each recipient of a campaign, by lead."""
        rows = self.rows("campaign_recipients", "lead_id")
        return [row["status"] for row in rows if row["campaign_id"] == campaign_id]

    def load_dimensions(self, tables: Mapping[DimensionName, list[Mapping[str, Any]]], at: datetime) -> None:
        class Source:
            def snapshot(self, name: DimensionName, snapshot_at: datetime) -> pa.Table:
                rows = [{**row, "snapshot_at": snapshot_at} for row in tables.get(name, [])]
                return pa.Table.from_pylist(rows, schema=DIMENSION_SCHEMAS[name])

            def odd_rows(self) -> list[OddRow]:
                return []

        refresh_dimensions(Source(), self.store, self.warehouse, lambda: at)


@pytest.fixture
def reports(stack: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reports]:
    """An empty, migrated warehouse; its database always has the same name, which dbt writes into what it has parsed."""
    url = f"{stack.clickhouse_url.get_secret_value().rsplit('/', 1)[0]}/test_reports"
    with open_warehouse(stack) as any_warehouse:
        for name in ("test_reports", reports_database(url)):
            any_warehouse.client.command(f"drop database if exists {name}{on_cluster(stack)} sync")
    settings = own_warehouse(stack, "test_reports")
    target = tmp_path_factory.getbasetemp() / "dbt"
    target.mkdir(exist_ok=True)
    folder = tmp_path_factory.mktemp("reports")
    with open_warehouse(settings) as warehouse:
        yield Reports(settings, warehouse, S3ObjectStore.from_settings(settings), folder / uuid4().hex[:8], target)


def user(user_id: int, **values: Any) -> Mapping[str, Any]:
    return {"id": user_id, "email": f"u{user_id}@example.org", "name": HOSTILE, "created_at": NOON, **values}


def campaign(campaign_id: int, *, eligible: int, excluded: int = 0, **values: Any) -> Mapping[str, Any]:
    """A sent campaign of user 1 whose audience is frozen."""
    return {
        "id": campaign_id, "owner_id": 1, "sender_id": 1, "from_address": "from@example.org", "name": HOSTILE,
        "subject": HOSTILE, "status": "sent", "status_reason": None, "scheduled_at": None, "queued_at": NOON,
        "started_at": NOON, "finished_at": NOON + timedelta(hours=1), "created_at": NOON,
        "considered": eligible + excluded, "eligible": eligible, "excluded_suppressed": excluded,
        "excluded_unsubscribed": 0, "excluded_invalid_address": 0, "excluded_duplicate_address": 0,
        "chunk_count": 1, "frozen_at": NOON, **values,
    }  # fmt: skip


def suppressions(count: int, *, source: str, days: int = 0, sender_id: int | None = None) -> Mapping[str, Any]:
    """So many hard bounces that began so many days after noon's day."""
    day = NOON.date() + timedelta(days=days)
    return {
        "id": f"{day}/{sender_id}/{source}", "created_on": day, "reason": "hard_bounce", "source": source,
        "sender_id": sender_id, "suppressions": count,
    }  # fmt: skip


def delivery(campaign_id: int, lead_id: int, status: DeliveryStatus, at: datetime, **values: Any) -> Mapping[str, Any]:
    return {
        "campaign_id": campaign_id, "lead_id": lead_id, "message_id": str(message_id(campaign_id, lead_id)),
        "owner_id": 1, "sender_id": 1, "email": f"lead{lead_id}@example.org", "provider": "simulator",
        "provider_message_id": f"p-{campaign_id}-{lead_id}" if status == "accepted" else "", "status": status,
        "error_code": "", "error_message": "", "chunk_index": 0, "call_index": 0,
        "call_id": str(call_id(campaign_id, 0, 0)), "occurred_at": at,
        "version": delivery_version(status, int(at.timestamp() * 1000)), **values,
    }  # fmt: skip


def event(kind: EventType, subtype: str = "", *, key: str, at: datetime = NOON, **values: Any) -> Mapping[str, Any]:
    """An event that carries nothing that leads to a delivery, unless the values say so."""
    return {
        "event_key": f"simulator:{key}", "provider": "simulator", "account": "default", "event_id": key, "type": kind,
        "subtype": subtype, "status_rank": status_rank(kind, subtype), "campaign_id": 0, "message_id": "",
        "provider_message_id": "", "recipient": "", "occurred_at": at, "received_at": at, "normaliser_version": 1,
        "details": "{}", **values,
    }  # fmt: skip


def about(campaign_id: int, lead_id: int) -> Mapping[str, Any]:
    """What an event carries that says everything about its message."""
    return {"campaign_id": campaign_id, "message_id": str(message_id(campaign_id, lead_id))}


def test_an_empty_warehouse_has_empty_reports_and_a_second_build_is_the_same(reports: Reports) -> None:
    database = reports_database(reports.settings.clickhouse_url.get_secret_value())

    def views() -> dict[str, Any]:
        found = f"select name, (uuid, comment) from system.tables where database = '{database}' and engine = 'View'"
        return dict(reports.warehouse.client.query(found).result_rows)

    for _ in range(2):  # the second build is the first that computes only what is new
        reports.build()
        assert [reports.rows(mart, "1") for mart in MARTS] == [[]] * len(MARTS)
    unit_tests = reports.dbt("test", "--select", "test_type:unit")
    assert set(unit_tests.values()) == {"pass"}
    assert len(unit_tests) >= len(MARTS)
    first = views()
    reports.models()
    assert views() == first, "a view that stands as it should is left alone"
    assert "Grain: (lead_id, campaign_id)" in first["lead_history"][1]

    reports.warehouse.client.command(f"alter table {database}.lead_history modify comment 'of an older project'")
    reports.warehouse.client.command(f"create or replace view {database}.hourly_throughput as select 1 as old")
    reports.models()
    assert {name for name, what in views().items() if what != first[name]} == {"lead_history", "hourly_throughput"}
    assert views()["lead_history"][1] == first["lead_history"][1]
    assert reports.rows("hourly_throughput", "1") == []


def test_the_docs_know_every_mart_and_the_freshness_of_every_source_is_reported(reports: Reports) -> None:
    reports.load_dimensions({}, datetime.now(UTC))
    sources = reports.dbt("source", "freshness")
    fresh = {name.split(".")[-1]: status for name, status in sources.items()}
    assert {name for name, status in fresh.items() if status == "pass"} == {"campaign", "app_user", "suppression"}
    assert {name for name, status in fresh.items() if status == "warn"} == {"delivery", "event", "exclusion"}

    reports.models()
    reports.dbt("docs", "generate", "--static")
    catalog = json.loads((reports.target / "catalog.json").read_text())["nodes"]
    assert {f"model.email_reports.{mart}" for mart in MARTS} <= set(catalog)
    page = (reports.target / "static_index.html").read_text()
    assert "How the list of suppressed addresses grew" in page
    assert all(f"exposure.email_reports.{name}" in page for name in ("recipient_lookup", "deliverability_watch"))


def test_hostile_data_comes_through_and_every_count_adds_up(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    reports.load_deliveries(
        1,
        [
            delivery(1, 1, "accepted", NOON, email=LONGEST_ADDRESS),
            delivery(1, 2, "accepted", NOON + timedelta(minutes=2), email=HOSTILE),
            delivery(
                1, 3, "rejected", NOON, error_code="550", error_message=HOSTILE, email=f"{HOSTILE}@{HOSTILE_DOMAIN}"
            ),
            delivery(1, 4, "unknown", NOON),
            delivery(1, 5, "abandoned", NOON + timedelta(days=1)),
        ],
    )
    reports.load_dimensions(
        {
            "app_user": [user(1)],
            "campaign": [
                campaign(1, eligible=5, excluded=2),
                campaign(2, eligible=3, status="sending", finished_at=None),
                campaign(
                    3,
                    eligible=0,
                    status="draft",
                    considered=None,
                    excluded_suppressed=None,
                    frozen_at=None,
                    finished_at=None,
                ),
            ],
            "suppression": [suppressions(1, source=HOSTILE), suppressions(2, source=HOSTILE, days=3, sender_id=4)],
        },
        NOON + timedelta(days=2),
    )
    reports.build()

    first, second, draft = reports.rows("campaign_summary", "campaign_id")
    assert (first["name"], first["owner_name"]) == (HOSTILE, HOSTILE)
    counted = ("considered", "eligible", "excluded", "accepted", "rejected", "unknown", "abandoned", "not_attempted")
    assert [first[name] for name in counted] == [7, 5, 2, 2, 1, 1, 1, 0]
    assert [second[name] for name in counted] == [3, 3, 0, 0, 0, 0, 0, 3]
    assert [draft[name] for name in counted] == [0] * 8
    assert (first["first_sent_at"], first["duration_seconds"]) == (NOON, 120.0)
    # Two in the hour from the freeze to the end.
    assert (first["emails_per_minute"], first["accepted_rate"]) == (pytest.approx(2 / 60), 0.4)
    assert (second["emails_per_minute"], second["accepted_rate"], second["first_sent_at"]) == (None, None, None)

    days = reports.rows("sender_activity", "user_id, activity_date")
    assert [(day["user_id"], day["campaigns"], day["accepted"], day["abandoned"]) for day in days] == [
        (1, 1, 2, 0),
        (1, 1, 0, 1),
    ]

    recipients = reports.rows("campaign_recipients", "lead_id")
    assert [row["email"] for row in recipients[:2]] == [LONGEST_ADDRESS, HOSTILE]
    assert len(LONGEST_ADDRESS) == 320
    assert recipients[2]["error"] == f"550: {HOSTILE}"

    history = reports.rows("lead_history", "lead_id")
    for name in ("email", "status", "error", "occurred_at"):
        assert [row[name] for row in history] == [row[name] for row in recipients]
    domains = {row["recipient_domain"]: row for row in reports.rows("domain_deliverability", "activity_date desc")}
    assert set(domains) == {LONGEST_ADDRESS.split("@")[1], HOSTILE_DOMAIN.lower(), "", "example.org"}
    assert [domains[name]["accepted"] for name in (LONGEST_ADDRESS.split("@")[1], "", "example.org")] == [1, 1, 0]
    [reason] = reports.rows("bounce_reasons", "1")
    assert (reason["problem"], reason["reason_code"], reason["reason_class"]) == ("rejected", "550", "address")
    assert (reason["example_reason"], reason["recipients"]) == (f"550: {HOSTILE}"[:200], 1)
    hours = reports.rows("hourly_throughput", "activity_hour")
    assert [(hour["activity_hour"], hour["accepted"], hour["abandoned"]) for hour in hours] == [
        (NOON, 2, 0),
        (NOON + timedelta(days=1), 0, 1),
    ]
    growth = reports.rows("suppression_growth", "activity_date")
    assert [(row["source"], row["scope"], row["sender_id"], row["cumulative_suppressions"]) for row in growth] == [
        (HOSTILE, "every_sender", 0, 1),
        (HOSTILE, "one_sender", 4, 2),
    ]

    emails = reports.rows("email", "lead_id")
    assert [row["status"] for row in emails] == ["sent", "sent", "failed", "unknown", "failed"]
    assert [row["sent_at"] is not None for row in emails] == [True, True, False, False, False]
    assert (emails[0]["id"], emails[0]["subject"]) == (str(message_id(1, 1)), HOSTILE)
    assert (emails[0]["provider_message_id"], emails[3]["provider_message_id"]) == ("p-1-1", None)
    assert_that_what_holds_addresses_is_tagged(reports)
    assert_that_dagster_can_show_the_marts(reports, monkeypatch)


def assert_that_what_holds_addresses_is_tagged(reports: Reports) -> None:
    """By the columns that were built: the models' yml leaves some out."""
    found = reports.warehouse.client.query(
        "select table, groupArray(name) from system.columns where database = {database:String} group by table",
        parameters={"database": reports_database(reports.settings.clickhouse_url.get_secret_value())},
    )
    manifest = json.loads((reports.target / "manifest.json").read_text())
    tagged = {
        node["name"]: "pii" in node["tags"]
        for node in manifest["nodes"].values()
        if node["resource_type"] == "model" and not node["path"].startswith("look_ups/")
    }
    assert {str(table): holds_addresses(columns) for table, columns in found.result_rows} == tagged


def assert_that_dagster_can_show_the_marts(reports: Reports, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their numbers of rows, and the campaigns that they show to their end."""
    warehouse = reports.warehouse
    for mart in ("campaign_summary", "email"):  # a table, and a view
        assert warehouse.report_rows(mart) == len(reports.rows(mart, "campaign_id")) > 0
    assert warehouse.report_rows("no_such_report") is None
    monkeypatch.setattr("email_platform.adapters.clickhouse.warehouse.COUNTED_ROWS", 1)
    assert warehouse.report_rows("email") is None, "a view that is too large to be counted"
    summary = {row["campaign_id"]: row for row in reports.rows("campaign_summary", "campaign_id")}
    ended = [key for key, row in summary.items() if row["status"] == "sent" and row["not_loaded"] == 0]
    assert ended
    shown = warehouse.reported_to_the_end([*summary, 404], limit=100)
    assert list(shown) == sorted(ended, reverse=True)
    assert {key: one["campaign"] for key, one in shown.items()} == {key: summary[key]["name"] for key in ended}
    assert list(warehouse.reported_to_the_end([*summary], limit=1)) == [max(ended)]


def test_a_late_change_corrects_the_past_and_a_deleted_campaign_stays(reports: Reports) -> None:
    later = NOON + timedelta(days=40)
    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON), delivery(1, 2, "unknown", NOON)])
    reports.load_deliveries(2, [delivery(2, 1, "accepted", NOON)])
    both = [campaign(1, eligible=2), campaign(2, eligible=1)]
    reports.load_dimensions({"app_user": [user(1)], "campaign": both}, NOON + timedelta(days=1))
    reports.models()
    assert [(day["accepted"], day["unknown"]) for day in reports.rows("sender_activity", "activity_date")] == [(2, 1)]

    reports.load_deliveries(1, [delivery(1, 1, "accepted", NOON), delivery(1, 2, "accepted", later)])
    reports.load_dimensions({"app_user": [user(1)], "campaign": both[1:]}, later)
    reports.build()

    days = reports.rows("sender_activity", "activity_date")
    assert [(day["activity_date"], day["accepted"], day["unknown"]) for day in days] == [
        (NOON.date(), 2, 0),
        (later.date(), 1, 0),
    ]
    deleted, kept = reports.rows("campaign_summary", "campaign_id")
    assert (deleted["is_deleted"], deleted["accepted"], deleted["unknown"]) == (1, 2, 0)
    assert (kept["is_deleted"], kept["accepted"]) == (0, 1)
    assert [row["status"] for row in reports.rows("email", "campaign_id, lead_id")] == ["sent"] * 3


def test_campaigns_can_be_computed_again_from_rows_of_which_nothing_is_new(reports: Reports) -> None:
    for one in (1, 2):
        reports.load_deliveries(one, [delivery(one, 1, "accepted", NOON), delivery(one, 2, "accepted", NOON)])
    both = [campaign(one, eligible=2) for one in (1, 2)]
    reports.load_dimensions({"app_user": [user(1)], "campaign": both}, NOON + timedelta(days=1))
    reports.load_events(event("bounced", "hard", key="b", **about(1, 1)))
    reports.models()

    def counts() -> list[tuple[int, int, int]]:
        rows = reports.rows("campaign_summary", "campaign_id")
        return [(row["accepted"], row["rejected"], row["bounced_hard"]) for row in rows]

    assert counts() == [(2, 0, 1), (2, 0, 0)]
    change_in_place(reports.warehouse, "delivery", "update status = 'rejected', error_code = '550' where lead_id = 2")
    reports.models()
    assert counts() == [(2, 0, 1), (2, 0, 0)], "no load is new"
    reports.models("--vars", '{"recompute_campaigns": [1, 99]}')
    assert counts() == [(1, 1, 1), (2, 0, 0)], "only what was asked for, its events included"
    assert reports.statuses(1) == ["bounced_hard", "rejected"]
    reports.build("--full-refresh")
    assert counts() == [(1, 1, 1), (1, 1, 0)]


def test_events_move_a_status_by_rank_in_whatever_order_and_before_their_delivery(reports: Reports) -> None:
    later = NOON + timedelta(days=30)
    reports.load_events(
        event("delivered", key="early", at=NOON, **about(1, 1)),  # its delivery is loaded after it
        event("opened", key="opened", at=NOON, message_id=str(message_id(1, 1))),
        event("delivered", key="nobody", **about(9, 9)),
    )
    reports.models()
    assert reports.statuses(1) == []

    reports.load_deliveries(1, [delivery(1, lead_id, "accepted", NOON) for lead_id in range(1, 7)])
    reports.load_deliveries(1, [delivery(1, 7, "unknown", NOON)], chunk=1)
    reports.load_dimensions({"app_user": [user(1)], "campaign": [campaign(1, eligible=7)]}, NOON + timedelta(days=1))
    reports.models()
    assert reports.statuses(1) == ["opened", *["sent"] * 5, "unknown"]

    bounce = event("bounced", "hard", key="late", at=later, details=json.dumps({"diagnostic": HOSTILE}), **about(1, 1))
    reports.load_events(
        bounce,
        event("complained", key="complaint", provider_message_id="p-1-2"),
        event("delivered", key="d2", **about(1, 2)),
        event("bounced", "soft", key="soft", details='{"diagnostic": "smtp; 550 5.1.1 <x>"}', **about(1, 3)),
        event("bounced", "soft", key="out of office", **about(1, 4)),
        event("delivered", key="d4", **about(1, 4)),
        event("bounced", "hard", key="no id", at=later, recipient="LEAD5@example.org"),
        event("clicked", key="c6", **about(1, 6)),
        event("unsubscribed", key="u6", **about(1, 6)),
        event("delivered", key="d7", **about(1, 7)),
    )
    reports.load_events(bounce, event("clicked", key="c6", **about(1, 6)))  # reported twice
    reports.build()

    assert reports.statuses(1) == [
        *("bounced_hard", "complained", "bounced_soft", "delivered", "bounced_hard", "unsubscribed", "delivered"),
    ]
    first = reports.rows("campaign_recipients", "lead_id")[0]
    assert (first["outcome"], first["error"]) == ("accepted", HOSTILE)
    assert (first["status_at"], first["bounced_at"], first["opened_at"]) == (later, later, NOON)
    [summary] = reports.rows("campaign_summary", "campaign_id")
    counted = ("accepted", "unknown", "delivered", "bounced_hard", "bounced_soft", "complained", "opened", "clicked")
    assert [summary[name] for name in counted] == [6, 1, 4, 2, 1, 1, 1, 1]
    assert (summary["unsubscribed"], summary["delivered_rate"]) == (1, 4 / 7)
    rates = ("bounce_rate", "open_rate", "click_rate", "complaint_rate", "unsubscribe_rate")
    assert [summary[name] for name in rates] == [3 / 7, 0.25, 0.25, 0.25, 0.25]
    loads = "select max(loaded_at) from (select loaded_at from delivery union all select loaded_at from event)"
    newest = reports.warehouse.client.query(loads).result_rows[0][0]
    as_of = {mart: {row["as_of"] for row in reports.rows(mart, "1")} for mart in MARTS if mart != "suppression_growth"}
    assert set().union(*as_of.values()) == {newest}
    [day] = reports.rows("sender_activity", "activity_date")
    assert (day["activity_date"], day["bounced_hard"], day["delivered"]) == (NOON.date(), 2, 4)
    emails = [row["status"] for row in reports.rows("email", "lead_id")]
    assert emails == ["bounced", "sent", "bounced", "sent", "bounced", "sent", "sent"]

    assert {row["reason_code"]: row["recipients"] for row in reports.rows("bounce_reasons", "1")} == {"": 2, "5.1.1": 1}
    [domain] = reports.rows("domain_deliverability", "1")
    assert (domain["bounced_hard"], domain["delivered"], domain["complained"]) == (2, 4, 1)
    assert [row["status"] for row in reports.rows("lead_history", "lead_id")] == reports.statuses(1)

    tables = ("int_deliveries_current", "int_campaign_hours", "int_campaign_domains", "lead_history")

    def present() -> list[list[dict[str, Any]]]:
        when = {"built_at": None, "counted_up_to": None}
        return [[row | when for row in reports.rows(table, "all")] for table in tables]

    with_increments = present()
    reports.models("--full-refresh")
    assert present() == with_increments


def test_an_event_that_was_read_again_takes_back_what_the_old_reading_gave(reports: Reports) -> None:
    reports.load_deliveries(1, [delivery(1, lead_id, "accepted", NOON) for lead_id in range(1, 4)])
    reports.load_dimensions({"app_user": [user(1)], "campaign": [campaign(1, eligible=3)]}, NOON)
    reports.load_events(
        event("bounced", "hard", key="not so hard", **about(1, 1)),
        event("bounced", "hard", key="of another", **about(1, 2)),
    )
    reports.models()
    assert reports.statuses(1) == ["bounced_hard", "bounced_hard", "sent"]

    reports.load_events(
        event("bounced", "soft", key="not so hard", normaliser_version=2, **about(1, 1)),
        event("bounced", "hard", key="of another", normaliser_version=2, **about(1, 3)),
    )
    reports.models()
    assert reports.statuses(1) == ["bounced_soft", "sent", "bounced_hard"]

    reports.load_events(event("bounced", "hard", key="of another", at=NOON, received_at=NOON, **about(1, 2)))
    reports.load_deliveries(1, [delivery(1, 2, "accepted", NOON + timedelta(hours=1))], chunk=7)
    reports.build()
    assert reports.statuses(1) == ["bounced_soft", "sent", "bounced_hard"], "the old reading came again, and later"


def test_one_provider_message_id_of_several_recipients_tells_them_apart_by_address(reports: Reports) -> None:
    shared = [
        delivery(1, lead_id, "accepted", NOON, provider_message_id="<shared@mailgun>", email=address)
        for lead_id, address in [(1, "Quote'd@example.org"), (2, LONGEST_ADDRESS), (3, HOSTILE)]
    ]
    reports.load_deliveries(1, shared)
    reports.load_dimensions({"app_user": [user(1)], "campaign": [campaign(1, eligible=3)]}, NOON)
    reports.load_events(
        event("bounced", "hard", key="b", provider_message_id="<shared@mailgun>", recipient=LONGEST_ADDRESS),
        event("delivered", key="d", provider_message_id="<shared@mailgun>", recipient="quote'd@example.org"),
        event("opened", key="o", provider_message_id="<shared@mailgun>"),
    )
    reports.build()
    assert reports.statuses(1) == ["delivered", "bounced_hard", "sent"]
