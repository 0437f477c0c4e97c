"""Leads kept in step with a real MariaDB: odd types and rows, late and missing times, deletions, outages."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from typer.testing import CliRunner

from email_platform.adapters.mysql.lead_source import MysqlLeadSource
from email_platform.adapters.old_systems import sync_lead_slice, take_over_lead_changes
from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.lead_mirror import PostgresLeadMirror
from email_platform.cli.app import app
from email_platform.definitions import defs
from email_platform.domain.erasure import NobodyErased
from email_platform.errors import CommandRefusedError, ConfigurationError, PartUnavailableError
from email_platform.runs.lead_sync import RANGE_KEYS, SLICES, ChangesReport, SliceReport, sync_changes
from email_platform.runs.legacy_import import Throttle
from email_platform.settings import Settings
from tests.integration.mariadb_process import MariaDb, running_mariadb
from tests.integration.own_databases import closing_engine, own_settings

pytestmark = [pytest.mark.integration, pytest.mark.slow]

# As such tables grow: another name for most columns, latin1 beside utf8mb4, a key whose collation would not matter.
CREATE = """
create table customer (
    customer_no bigint unsigned not null auto_increment primary key,
    mail varchar(320) character set utf8mb4 collate utf8mb4_general_ci,
    given_name varchar(80) character set latin1,
    country char(2),
    age int,
    opted_out_at datetime null,
    created_at timestamp not null default '2024-01-01 00:00:00',
    is_vip tinyint(1) null,
    balance decimal(20, 4) null,
    score double null,
    born_on date null,
    seen_at datetime(3) null,
    tier enum('gold', 'silver') null,
    extra json null,
    removed tinyint(1) not null default 0,
    modified_at datetime null,
    key ix_customer_modified_at (modified_at)
) engine = InnoDB default charset = utf8mb4
"""
_names = itertools.count(1)


@dataclass
class Sync:
    """A source in MariaDB and a platform's database of one test's own."""

    settings: Settings
    mysql: Any
    engine: Engine

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.mysql.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def add(self, key: int, mail: str | None, **values: object) -> None:
        row = {"customer_no": key, "mail": mail, "modified_at": "2025-01-01 00:00:00", **values}
        marks = ", ".join(["%s"] * len(row))
        self.execute(f"insert into customer ({', '.join(row)}) values ({marks})", *row.values())

    def slice(self, index: int = 0, **settings: Any) -> SliceReport:
        report = sync_lead_slice(self.settings.model_copy(update=settings), index)
        assert report.differences() == []
        return report

    def changes(self, **settings: Any) -> ChangesReport:
        return take_over_lead_changes(self.settings.model_copy(update=settings))

    def ours(self, query: str) -> list[tuple[Any, ...]]:
        with self.engine.connect() as connection:
            return [tuple(row) for row in connection.execute(text(query))]

    def leads(self) -> dict[str, str | None]:
        return dict(self.ours("select own_key, email from lead order by id"))


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    with running_mariadb() as server:
        yield server


@pytest.fixture
def sync(stack: Settings, mariadb: MariaDb) -> Iterator[Sync]:
    database = mariadb.make_database()
    settings = own_settings(stack, f"leads_{next(_names)}").model_copy(
        update={
            "lead_source_url": SecretStr(mariadb.url(database)),
            "lead_source_table": "customer",
            "lead_source_key": "customer_no",
            "lead_source_changed": "modified_at",
            "lead_source_deleted": "removed",
            "lead_source_columns": "email=mail,first_name=given_name,unsubscribed_at=opted_out_at",
            "lead_source_attributes": "is_vip,balance,score,born_on,seen_at,tier,extra.*",
            "lead_source_rows_per_second": 1_000_000.0,
        }
    )
    mysql = mariadb.connect(database)
    with closing_engine(settings.postgres_url.get_secret_value()) as engine:
        sync = Sync(settings, mysql, engine)
        sync.execute(CREATE)
        yield sync
    mysql.close()


def test_each_type_arrives_as_the_platform_has_it_and_both_engines_agree(sync: Sync) -> None:
    sync.add(1, "Ann@Example.com", given_name="Zoé", country="DE", age=41, opted_out_at="2025-03-01 09:00:00", is_vip=1,
             balance="12345678901234.5600", score=0.1, born_on="1984-02-29", seen_at="2025-05-05 05:05:05.125",
             tier="gold", extra='{"price": 1.10, "tags": ["a", "b"], "deep": {"x": null}, "tier": "JSON"}')  # fmt: skip
    sync.add(2, "😀@example.com", opted_out_at="0000-00-00 00:00:00", is_vip=0, seen_at="0000-00-00 00:00:00")
    sync.add(3, None, score=1e300, extra='{"colon": "a:b, \\" %s"}')
    sync.add(4, "", balance="0.0000", score=-0.0, extra="{}", created_at="2038-01-19 03:14:07")
    assert sync.slice().applied.added == 4
    assert sync.slice().copied_ranges == 0, "each engine's own checksum of what it has is the same"
    (ann, smiley, nobody, empty) = sync.ours(
        "select own_key, email, first_name, country, age, cast(unsubscribed_at as text), cast(created_at as text), "
        "attributes - 'score' from lead order by own_key"
    )
    assert ann == (
        "1", "Ann@Example.com", "Zoé", "DE", 41, "2025-03-01 09:00:00+00", "2024-01-01 00:00:00+00",
        {"price": 1.10, "tags": ["a", "b"], "deep": {"x": None}, "tier": "gold", "is_vip": True,
         "born_on": "1984-02-29", "balance": 12345678901234.56, "seen_at": "2025-05-05T05:05:05.125000Z"},
    )  # fmt: skip
    assert sync.ours("select attributes ->> 'balance', attributes ->> 'price' from lead where own_key = '1'") == [
        ("12345678901234.5600", "1.10")
    ], "no digit is lost"
    assert smiley[1:6] == ("😀@example.com", None, None, None, None)
    assert smiley[7] == {"is_vip": False}, "a zero date is no date"
    assert (nobody[1], nobody[7]) == (None, {"colon": 'a:b, " %s'})
    assert (empty[1], empty[6], empty[7]) == ("", "2038-01-19 03:14:07+00", {"balance": 0})


def test_somebody_who_was_erased_does_not_come_back_from_the_source(sync: Sync) -> None:
    key = erasure_key(sync.settings)
    assert key is not None
    with sync.engine.begin() as connection:
        gone = {"pseudonym": key.pseudonym("gone@example.com"), "key_id": key.key_id}
        connection.execute(text("insert into erasure (pseudonym, key_id) values (:pseudonym, :key_id)"), gone)
    sync.add(1, " Gone@Example.com", given_name="Zoe", extra='{"shoe": 41}')
    sync.add(2, "stays@example.com")
    assert (sync.slice().applied.added, sync.slice().copied_ranges) == (1, 0)
    sync.execute("update customer set given_name = 'Zoé', modified_at = now() where customer_no = 1")
    sync.changes()
    assert sync.leads() == {"2": "stays@example.com"}
    assert sync.ours("select source_key, problem from lead_source_row where problem is not null") == [
        (1, "the person was erased (docs/erasure.md), and stays so")
    ]


def test_an_odd_row_is_quarantined_with_its_reason_and_stops_no_other_until_it_is_mended(sync: Sync) -> None:
    sync.execute("alter table customer modify extra longtext")
    odd: dict[int, dict[str, object]] = {
        11: {"age": 70_000}, 12: {"extra": "[1]"}, 13: {"extra": "{broken"}, 14: {"extra": '{"a": "\\u0000"}'},
        15: {"extra": '{"a":' * 2_000 + "1" + "}" * 2_000}, 16: {"given_name": "a\0b"},
        17: {"extra": '{"a": "\\ud800"}'},
    }  # fmt: skip
    for key, values in odd.items():
        sync.add(key, f"{key}@example.com", **values)
    for key in range(20, 60):
        sync.add(key, f"{key}@example.com")
    sync.changes()
    report = sync.slice()
    assert (report.applied.added, report.applied.quarantined) == (40, len(odd))
    problems = dict(sync.ours("select source_key, problem from lead_source_row where problem is not null"))
    assert problems.keys() == odd.keys()
    assert "smallint" in problems[11]
    assert "list" in problems[12]
    assert sync.slice().copied_ranges == 0, "a quarantined row is not read again and again"

    sync.execute("update customer set age = 70, modified_at = now() where customer_no = 11")
    sync.execute("update customer set age = 99999, modified_at = now() where customer_no = 20")
    (kept_id,) = sync.ours("select id from lead where own_key = '20'")
    changes = sync.changes()
    assert (changes.applied.added, changes.applied.quarantined) == (1, 1)
    leads = sync.leads()
    assert (leads["11"], leads["20"]) == ("11@example.com", None), "nobody is mailed by a row that cannot be read"
    sync.execute("update customer set age = 9, modified_at = now() + interval 1 second where customer_no = 20")
    sync.changes()
    assert sync.ours("select id, email from lead where own_key = '20'") == [(*kept_id, "20@example.com")]
    sync.slice()


def test_changes_are_found_by_time_with_ties_late_commits_clocks_ahead_and_marks_of_deletion(sync: Sync) -> None:
    for key in range(1, 31):
        sync.add(key, f"{key}@example.com", modified_at="2020-01-01 00:00:00")
    sync.changes()
    sync.slice()
    mirror = MysqlLeadSource.from_settings(sync.settings)
    sides = (
        mirror,
        PostgresLeadMirror(sync.engine, mirror.fields, NobodyErased()),
        timedelta(seconds=300),
        Throttle(1e9, lambda: 0.0, lambda _: None),
    )

    # Thirty rows of one second, over pages of four.
    sync.execute("update customer set given_name = 'all', modified_at = now()")
    report = sync_changes(*sides, page_rows=4)
    assert (report.rows_read, report.applied.changed) == (30, 30)
    assert sync_changes(*sides, page_rows=4).applied.unchanged == 30

    # A clock that is a day ahead hides nobody's change, and a late commit within the overlap is seen.
    sync.execute("update customer set given_name = 'ahead', modified_at = now() + interval 1 day where customer_no = 1")
    sync.execute(
        "update customer set given_name = 'late', modified_at = now() - interval 200 second where customer_no = 2"
    )
    assert sync_changes(*sides).applied.changed == 2
    sync.execute("update customer set given_name = 'after', modified_at = now() where customer_no = 3")
    assert sync_changes(*sides).applied.changed == 1

    # What no time tells is left to the slices: no time, a zero date, older than the overlap, a row that is gone.
    sync.execute("update customer set given_name = 'null', modified_at = null where customer_no = 4")
    sync.execute("update customer set given_name = 'zero', modified_at = 0 where customer_no = 5")
    sync.execute("update customer set given_name = 'older', modified_at = '2020-02-02' where customer_no = 6")
    sync.execute("delete from customer where customer_no = 7")
    assert sync_changes(*sides).applied.changed == 0
    assert sync.slice().applied.removed == 1
    names = dict(sync.ours("select own_key, first_name from lead"))
    assert [names.get(str(key)) for key in range(1, 8)] == ["ahead", "late", "after", "null", "zero", "older", None]

    sync.execute("update customer set removed = 1, modified_at = now() where customer_no = 8")
    assert sync_changes(*sides).applied.removed == 1
    sync.execute("update customer set removed = 0, modified_at = now() where customer_no = 8")
    assert sync_changes(*sides).applied.added == 1
    sync.slice()


def test_an_opt_out_survives_the_lead_that_had_it_and_its_address(sync: Sync) -> None:
    for key in (1, 2, 3):
        sync.add(key, f"Out{key}@Example.com", opted_out_at="2025-01-01")
    sync.slice()
    sync.execute("delete from customer where customer_no = 1")
    sync.execute("update customer set mail = 'new@example.com' where customer_no = 2")
    sync.execute("update customer set opted_out_at = null where customer_no = 3")
    sync.slice()
    assert sync.ours("select address, reason from suppression order by 1") == [
        ("out1@example.com", "unsubscribe"), ("out2@example.com", "unsubscribe")
    ]  # fmt: skip
    assert sync.ours("select email, unsubscribed_at is null from lead order by own_key") == [
        ("new@example.com", False), ("Out3@Example.com", True)
    ]  # fmt: skip


def test_slices_share_out_every_key_and_what_is_wrong_here_is_put_right(sync: Sync) -> None:
    keys = [1, RANGE_KEYS - 1, RANGE_KEYS, 5 * RANGE_KEYS, (SLICES + 1) * RANGE_KEYS + 3, 2**62]
    for key in keys:
        sync.add(key, f"k{key}@example.com")
    slices = sorted({key // RANGE_KEYS % SLICES for key in keys})
    assert {0, 1, 5} < set(slices)
    reports = [sync.slice(index) for index in slices]
    assert sum(report.rows for report in reports) == len(keys)
    assert sync.leads() == {str(key): f"k{key}@example.com" for key in keys}
    with sync.engine.begin() as connection:
        connection.execute(text("update lead set email = 'mine@example.com' where own_key = '1'"))
        connection.execute(text("delete from lead where own_key = '10000'"))
        connection.execute(text("insert into lead (email) values ('no-key@example.com')"))
    again = [sync.slice(index) for index in slices]
    assert [report.copied_ranges for report in again[:2]] == [1, 1]
    assert sum(report.copied_ranges for report in again) == 2
    emails = sync.ours("select email from lead where own_key in ('1', '10000') or own_key is null")
    assert {email for (email,) in emails} == {"k1@example.com", "k10000@example.com", "no-key@example.com"}


def test_a_source_that_goes_away_between_ranges_loses_nothing_and_the_next_run_goes_on(sync: Sync) -> None:
    for range_index in range(0, 4 * SLICES, SLICES):
        sync.add(range_index * RANGE_KEYS + 1, f"r{range_index}@example.com")

    def cut(range_index: int, _rows: int) -> None:
        if range_index == SLICES:
            sync.execute("rename table customer to away")

    with pytest.raises(PartUnavailableError, match="1146"):
        sync_lead_slice(sync.settings, 0, cut)
    assert len(sync.leads()) == 2
    sync.execute("rename table away to customer")
    report = sync.slice()
    assert (report.copied_ranges, len(sync.leads())) == (2, 4)


def test_a_table_or_setting_that_does_not_fit_is_refused_with_what_is_wrong(sync: Sync) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"lead_source_key": "mail"}, "must be a whole number"),
        ({"lead_source_changed": "born_on"}, "must be datetime or timestamp"),
        ({"lead_source_changed": "seen_at"}, "no index for rows by their time"),
        ({"lead_source_columns": "email=nothing"}, "nothing is missing"),
        ({"lead_source_columns": "email=age"}, "which email cannot be"),
        ({"lead_source_columns": "mail"}, "EMAIL_PLATFORM_LEAD_SOURCE_COLUMNS"),
        ({"lead_source_table": "nowhere"}, "no such table"),
        ({"lead_source_table": "a`b"}, "EMAIL_PLATFORM_LEAD_SOURCE_TABLE"),
        ({"lead_source_url": None}, "EMAIL_PLATFORM_LEAD_SOURCE_URL is not set"),
    ]
    for change, message in refused:
        with pytest.raises(ConfigurationError, match=message):
            sync.slice(**change)
    with pytest.raises(CommandRefusedError, match="only read"):
        sync.slice(lead_relation="app.customer")


def test_dagster_runs_a_slice_and_a_look_for_changes(sync: Sync, monkeypatch: pytest.MonkeyPatch) -> None:
    sync.add(1, "one@example.com")
    sync.add(2, "two@example.com", age=99_999)
    for name, value in sync.settings.variables().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("lead_slices_job").execute_in_process(partition_key="00", instance=instance)
        checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
        assert checks == {"reconciled": True, "no_row_is_quarantined": False}
        (event,) = result.asset_materializations_for_node("leads_in_step")
        assert event.metadata["leads added"].value == 1
        assert defs.resolve_job_def("lead_changes_job").execute_in_process(instance=instance).success


def test_adopt_check_says_what_fits_what_is_missing_and_which_index_helps(
    sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync.add(1, "one@example.com", modified_at=None)
    for name, value in sync.settings.variables().items():
        monkeypatch.setenv(name, value)
    good = CliRunner().invoke(app, ["adopt", "check", "--json"])
    assert good.exit_code == 0, good.output
    answer = json.loads(good.stdout)
    assert (answer["usable"], answer["rows_without_time_of_change"], answer["rows_without_usable_key"]) == (True, 1, 0)
    assert all(one["served"] for one in answer["indexes"])
    monkeypatch.setenv("EMAIL_PLATFORM_LEAD_SOURCE_CHANGED", "seen_at")
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("EMAIL_PLATFORM_LEAD_SOURCE_COLUMNS", "email=mail,first_name=age")
    bad = CliRunner().invoke(app, ["adopt", "check"])
    assert bad.exit_code == 1
    assert "create index ix_customer_seen_at on `customer` (`seen_at`)" in bad.output
    assert "age is int(11), which first_name cannot be" in bad.output
