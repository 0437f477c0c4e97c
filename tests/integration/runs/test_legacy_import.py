"""The old table's import between real engines: hostile rows, kills, late changes, foreign tables, a spared source."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from pydantic import SecretStr
from sqlalchemy import Connection, Engine, text
from sqlalchemy.engine import make_url

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.old_systems import import_legacy_month
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.definitions import defs
from email_platform.errors import ConfigurationError, LegacySourceError, PartUnavailableError
from email_platform.local.demo.legacy_emails import COLUMNS, INDEXES, LegacyTable, generate_legacy_emails
from email_platform.runs.legacy_table import RANGE_IDS, Month
from email_platform.settings import Settings
from tests.integration.own_databases import own_bucket, own_warehouse
from tests.integration.runs.erased_old_rows import check_that_nobody_comes_back
from tests.integration.runs.imported_emails import ImportedEmails

pytestmark = [pytest.mark.integration, pytest.mark.slow]

JANUARY, FEBRUARY, MARCH = Month(2025, 1), Month(2025, 2), Month(2025, 3)
MONTHS = (JANUARY, FEBRUARY, MARCH)
_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Old(ImportedEmails):
    """An old database and a warehouse of one test's own."""

    engine: Engine
    store: S3ObjectStore

    def execute(self, statement: str, **parameters: Any) -> None:
        with self.engine.begin() as connection:
            connection.execute(text(statement), parameters)

    def old_rows(self) -> list[tuple[Any, ...]]:
        """Every column of every row, times as the database's own text in UTC."""
        times = ("sent_at", "created_at", "updated_at")
        shown = [f"to_char({c}, 'YYYY-MM-DD HH24:MI:SS.US')" if c in times else c for c in COLUMNS]
        with self.engine.begin() as connection:
            connection.execute(text("set local timezone = 'UTC'"))
            rows = connection.execute(text(f"select {', '.join(shown)} from email order by id"))
            return [tuple(row) for row in rows]

    def physical_rows(self) -> tuple[int, Any]:
        """Rows without final and when the last one was loaded."""
        return tuple(self.warehouse.client.query("select count(), max(loaded_at) from legacy_email").result_rows[0])  # type: ignore[return-value]


@pytest.fixture
def old(stack: Settings) -> Iterator[Old]:
    name = f"legacy_{next(_names)}"
    server = make_url(stack.postgres_url.get_secret_value())
    admin = create_oltp_engine(server.render_as_string(hide_password=False))
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"create database {name}"))
    url = server.set(database=name).render_as_string(hide_password=False)
    engine = create_oltp_engine(url)
    settings = own_warehouse(stack, f"test_{name}").model_copy(
        update={
            "legacy_url": SecretStr(url),
            "legacy_rows_per_second": 10_000_000.0,
            "s3_bucket": own_bucket(),
        }
    )
    store = S3ObjectStore.from_settings(settings)
    store.create_bucket()
    warehouse = ClickHouseWarehouse.from_settings(settings)
    yield Old(settings, warehouse, engine, store)
    warehouse.close()
    engine.dispose()
    with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"drop database {name} with (force)"))
    admin.dispose()


@pytest.fixture
def filled(old: Old) -> Old:
    """9,000 generated rows of three months whose ids, 100 to 900,000, are in ten ranges."""
    generate_legacy_emails(old.engine, LegacyTable(9_000, date(2025, 1, 1), 3), with_indexes=False)
    old.execute("update email set id = -id")
    old.execute("update email set id = id * -100")
    for index in INDEXES:
        old.execute(index)
    return old


def hostile(connection: Connection) -> None:
    """Rows that break a careless copy or a careless checksum."""
    moments = ["2025-01-01 00:00:00+00", "2025-01-31 23:59:59.999999+00", "2025-01-15 12:00:00.000001+00"]
    texts = [
        "",
        " ",
        ",",
        "N",
        "3:abc",
        "\\N",
        "\t\n\r\n",
        'it\'s "q" `b`',
        "NULL",
        "\u202e\u05e9\u05dc 😀 e\u0301",
        "x" * 20_000,
    ]
    for index, value in enumerate(texts):
        connection.execute(
            text(
                """
                insert into email (campaign_id, user_id, lead_id, email, subject, status, provider_message_id, error,
                    sent_at, created_at, updated_at)
                values (7, 1, :lead, :value, :other, :value, :id, :error, :sent, :created, :updated)
                """
            ),
            {
                "lead": -index if index % 3 == 0 else 2**62 + index,
                "value": value,
                "other": texts[-1 - index],
                "id": None if index % 2 else f"{value}{index}",
                "error": None if index % 3 else value,
                "sent": None
                if index % 4
                else "1900-01-01 00:00:00+00"
                if index % 8
                else "2299-12-30 23:59:59.999999+00",
                "created": moments[index % 3],
                "updated": "1969-12-31 23:59:59.999999+05:30",
            },
        )


def test_generated_and_hostile_rows_arrive_exactly_as_they_were(filled: Old) -> None:
    with filled.engine.begin() as connection:
        hostile(connection)
    reports = [filled.run(month) for month in MONTHS]
    assert sum(report.source_total.rows for report in reports) == 9_000 + 11
    assert filled.new_rows() == filled.old_rows()


def test_double_sends_and_rows_that_were_never_sent_are_kept(filled: Old) -> None:
    filled.execute("insert into email select 900001, campaign_id, user_id, lead_id, email, subject, 'queued', null, "
                   "null, null, created_at, updated_at from email where id = 100")  # fmt: skip
    for month in MONTHS:
        filled.run(month)
    with filled.engine.begin() as connection:
        counts = connection.execute(
            text("select status, count(*), count(distinct (campaign_id, lead_id)) from email group by 1 order by 1")
        ).all()
    found = filled.warehouse.client.query(
        "select status, count(), uniqExact(campaign_id, lead_id) from legacy_email final where is_deleted = 0 "
        "group by 1 order by 1"
    ).result_rows
    assert [tuple(row) for row in counts] == [tuple(row) for row in found]
    assert sum(row[1] for row in counts) > len({row[1:4:2] for row in filled.old_rows()}), "a lead was mailed twice"


def test_a_second_run_copies_nothing_and_changes_nothing(filled: Old) -> None:
    for month in MONTHS:
        assert filled.run(month).copied_ranges > 0
    before = filled.physical_rows()
    for month in MONTHS:
        report = filled.run(month)
        assert (report.copied_ranges, report.copied_rows, report.copied_bytes) == (0, 0, 0)
    assert filled.physical_rows() == before


# What is done to January at the source, how many rows of its range then moved and how many are gone.
CHANGES = (
    # updated_at stays: it is not relied upon.
    ("update email set status = 'bounced', error = 'late' where id = 110000", 0, 0),
    ("update email set error = '' where id = (select min(id) from email where error is null)", 0, 0),
    ("delete from email where id = 120000", 0, 1),
    ("insert into email select id + 1, campaign_id, user_id, lead_id, email, subject, status, null, error, "
     "sent_at, created_at, updated_at from email where id = 130000", 0, 0),
    ("update email set lead_id = 77777777 where id = 140000", 0, 1),
    ("update email set campaign_id = campaign_id + 1, status = 'x' where id = 150000", 0, 1),
    ("update email set created_at = '2025-03-15 00:00+00', subject = 'moved' where id = 160000", 1, 0),
    ("update email set created_at = '2025-03-15 00:00+00', lead_id = 5 where id = 170000", 0, 1),
    ("delete from email where id between 200000 and 299999", 0, 1000),
)  # fmt: skip


def test_what_was_changed_at_the_source_is_found_and_corrected(filled: Old) -> None:
    for month in MONTHS:
        filled.run(month)
    for change, moved, removed in CHANGES:
        filled.execute(change)
        first = filled.run(JANUARY)
        assert (first.copied_ranges, first.moved_rows, first.removed_rows) == (1, moved, removed), change
    for month in (FEBRUARY, MARCH):
        filled.run(month)
    assert filled.new_rows() == filled.old_rows()
    assert sum(filled.run(month).copied_ranges for month in MONTHS) == 0


def test_somebody_who_was_erased_is_a_pseudonym_however_often_the_old_rows_are_imported(filled: Old) -> None:
    check_that_nobody_comes_back(filled.settings, filled.execute, filled.old_rows, filled.new_rows)


def test_people_erased_under_another_key_stop_the_import_before_it_reads(filled: Old, oltp_engine: Engine) -> None:
    assert oltp_engine, "somebody was erased there"
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_ERASURE_KEY"):
        filled.run(JANUARY, erasure_key=SecretStr("another key than that under which people were erased"))
    assert filled.new_rows() == []


def test_a_row_that_moves_between_months_survives_in_whatever_order_they_are_run_again(filled: Old) -> None:
    for month in MONTHS:
        filled.run(month)
    filled.execute("update email set created_at = '2025-03-15 00:00+00' where id = 150000")
    filled.run(MARCH)
    filled.run(JANUARY)
    filled.execute("update email set created_at = '2025-01-15 00:00+00' where id = 150000")
    filled.run(MARCH)
    filled.run(JANUARY)
    assert filled.new_rows() == filled.old_rows()
    filled.execute("delete from email where id = 150000")
    for month in MONTHS:
        filled.run(month)
    assert filled.new_rows() == filled.old_rows()


def test_a_kill_in_the_middle_costs_only_the_range_at_work(filled: Old) -> None:
    filled.execute("update email set created_at = '2025-01-05 00:00+00' where created_at >= '2025-01-03'")
    whole = 10
    program = (
        "import sys, time\n"
        "from email_platform.adapters.old_systems import import_legacy_month\n"
        "from email_platform.runs.legacy_table import Month\n"
        "from email_platform.settings import Settings\n"
        "def on_range(done, of, rows):\n"
        "    print(done, of, flush=True)\n"
        "    time.sleep(0.2)\n"
        "import_legacy_month(Settings.load(), Month(2025, 1), on_range)\n"
    )
    environment = {**os.environ, **filled.settings.variables()}
    with subprocess.Popen(
        [sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("3 "):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 3 <= len([*filled.store.list("legacy/")]) <= 4
    report = filled.run(JANUARY)
    assert whole - 4 <= report.copied_ranges <= whole - 3
    filled.run(FEBRUARY)
    assert filled.new_rows() == filled.old_rows()
    assert filled.physical_rows()[0] <= 9_000 + 1_000, "at most the range at work twice, and final shows it once"


def test_objects_are_named_by_month_and_first_id(filled: Old) -> None:
    filled.run(JANUARY)
    keys = [info.key for info in filled.store.list("legacy/")]
    assert keys == [f"legacy/month=2025-01/ids-{first:012d}.parquet" for first in range(0, 4 * RANGE_IDS, RANGE_IDS)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("alter table email add column opened_at timestamptz", "opened_at is unknown"),
        ("alter table email drop column error", "error is missing"),
        ("alter table email alter column sent_at type timestamp", "sent_at is timestamp without time zone"),
        ("alter table email alter column lead_id type numeric", "lead_id is numeric"),
        ("drop index ix_email_created_at", "no index that starts with created_at"),
        ("alter table email rename to emails", "no table 'email'"),
        ("update email set sent_at = 'infinity' where id = 100", "id 100"),
        ("update email set updated_at = '0044-03-15 BC' where id = 100", "id 100"),
    ],
)
def test_a_table_that_the_import_does_not_know_is_refused_with_what_is_wrong(
    filled: Old, change: str, message: str
) -> None:
    filled.execute(change)
    with pytest.raises(LegacySourceError, match=message):
        filled.run(JANUARY)
    assert filled.physical_rows()[0] == 0


def test_columns_may_be_left_behind_only_by_name(filled: Old) -> None:
    filled.execute("alter table email add column opened_at timestamptz")
    filled.run(JANUARY, legacy_ignored_columns=" opened_at , clicked_at")


def test_narrower_columns_and_another_schema_are_taken(filled: Old) -> None:
    filled.execute("alter table email alter column user_id type integer, alter column subject type varchar(30000)")
    filled.execute("create schema mailing")
    filled.execute("alter table email set schema mailing")
    filled.run(JANUARY, legacy_table="mailing.email")


def test_a_locked_table_is_given_up_soon_and_nobody_waits_behind_the_import(filled: Old) -> None:
    with filled.engine.begin() as connection:
        connection.execute(text("lock table email in access exclusive mode"))
        began = time.monotonic()
        with pytest.raises(PartUnavailableError, match="lock timeout"):
            filled.run(JANUARY, legacy_lock_timeout_seconds=0.2)
        assert time.monotonic() - began < 30
        waiting = text("select count(*) from pg_locks where not granted and relation = 'email'::regclass")
        assert connection.execute(waiting).scalar_one() == 0
    filled.run(JANUARY)


def test_a_statement_that_takes_too_long_is_given_up(filled: Old) -> None:
    with pytest.raises(PartUnavailableError, match="statement timeout"):
        filled.run(JANUARY, legacy_statement_timeout_seconds=0.001)


def test_the_source_is_read_by_a_read_only_session_without_a_transaction_between_ranges(filled: Old) -> None:
    seen: list[tuple[Any, ...]] = []

    def on_range(_done: int, _of: int, _rows: int) -> None:
        with filled.engine.begin() as connection:
            seen.extend(
                tuple(row)
                for row in connection.execute(
                    text(
                        "select state, xact_start, backend_xmin from pg_stat_activity "
                        "where application_name = 'email-platform legacy import'"
                    )
                )
            )

    import_legacy_month(filled.settings, JANUARY, on_range)
    assert set(seen) == {("idle", None, None)}
    assert len(seen) >= 3


def test_one_import_at_a_time_reads_the_source_whatever_launched_it(filled: Old) -> None:
    spans: list[tuple[float, float]] = []

    def run(month: Month) -> None:
        began: list[float] = []

        def on_range(_done: int, _of: int, _rows: int) -> None:
            began.append(time.monotonic())

        import_legacy_month(filled.settings, month, on_range)
        spans.append((began[0], began[-1]))

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(run, MONTHS))
    spans.sort()
    assert all(before[1] < after[0] for before, after in itertools.pairwise(spans))


def test_a_user_who_may_only_select_can_import(filled: Old) -> None:
    filled.execute("create role reader login password 'only-select'")
    try:
        filled.execute("grant select on email to reader")
        assert filled.settings.legacy_url is not None
        url = make_url(filled.settings.legacy_url.get_secret_value()).set(username="reader")
        right = SecretStr(url.set(password="only-select").render_as_string(hide_password=False))
        filled.run(JANUARY, legacy_url=right)
        wrong = SecretStr(url.set(password="wrong-password").render_as_string(hide_password=False))
        with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_LEGACY_URL") as refusal:
            filled.run(JANUARY, legacy_url=wrong)
        assert "wrong-password" not in str(refusal.value)
    finally:
        filled.execute("drop owned by reader; drop role reader")


def test_a_restarted_source_is_an_outage_and_the_next_run_succeeds(filled: Old) -> None:
    def cut(done: int, _of: int, _rows: int) -> None:
        if done == 2:
            filled.execute("select pg_terminate_backend(pid) from pg_stat_activity "
                           "where application_name = 'email-platform legacy import'")  # fmt: skip

    with pytest.raises(PartUnavailableError):
        import_legacy_month(filled.settings, JANUARY, cut)
    assert filled.run(JANUARY).copied_ranges == 2


def test_a_source_that_is_written_to_all_the_time_is_still_equal_as_of_its_snapshots(filled: Old) -> None:
    def write(done: int, _of: int, _rows: int) -> None:
        filled.execute("update email set status = 'bounced' where id in (:a, :b)", a=done * 50_000, b=250_000)

    report = import_legacy_month(filled.settings, JANUARY, write)
    assert report.differences() == []
    filled.run(JANUARY)
    for month in (FEBRUARY, MARCH):
        filled.run(month)
    assert filled.new_rows() == filled.old_rows()


def test_rows_that_disappear_from_the_warehouse_or_are_altered_there_come_back(filled: Old) -> None:
    filled.run(JANUARY)
    client = filled.warehouse.client
    client.command("alter table legacy_email delete where id between 100 and 5000", settings={"mutations_sync": 2})
    assert filled.run(JANUARY).copied_ranges == 1
    client.command("alter table legacy_email update error = 'x' where id = 150000", settings={"mutations_sync": 2})
    assert filled.run(JANUARY).copied_ranges == 1
    for month in (FEBRUARY, MARCH):
        filled.run(month)
    assert filled.new_rows() == filled.old_rows()


# --- through Dagster ------------------------------------------------------------------------------------------------


def run_partition(month: str, instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return defs.resolve_job_def("legacy_import_job").execute_in_process(
        partition_key=month, instance=instance, raise_on_error=False
    )


def test_a_partition_s_run_says_counts_checksums_and_what_it_did(filled: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in filled.settings.variables().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.ephemeral() as instance:
        first, second = run_partition("2025-01", instance), run_partition("2025-01", instance)
        empty = run_partition("2024-01", instance)
    for result, copied in ((first, 4), (second, 0), (empty, 0)):
        assert result.success
        (event,) = result.asset_materializations_for_node("legacy_emails")
        metadata = {name: value.value for name, value in event.metadata.items()}
        assert metadata["ranges copied now"] == copied
        assert metadata["checksum at the source"] == metadata["checksum in the warehouse"]
        checks = {check.check_name: check.passed for check in result.get_asset_check_evaluations()}
        assert checks == {"reconciled": True, "partitions_cover_the_table": True}


def test_a_refused_table_fails_the_run_at_once_with_the_reason(filled: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    filled.execute("alter table email add column opened_at timestamptz")
    for name, value in filled.settings.variables().items():
        monkeypatch.setenv(name, value)
    with dg.DagsterInstance.ephemeral() as instance:
        result = run_partition("2025-01", instance)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "opened_at" in str(failure.step_failure_data.user_failure_data.description)


def test_the_generator_continues_where_it_was_and_makes_the_same_rows(old: Old) -> None:
    table = LegacyTable(2_000, date(2025, 1, 1), 3)
    assert generate_legacy_emails(old.engine, table) == 2_000
    rows = old.old_rows()
    assert generate_legacy_emails(old.engine, table) == 0
    old.execute("delete from email where id > 1500")
    assert generate_legacy_emails(old.engine, table, with_indexes=False) == 500
    assert old.old_rows() == rows
    created = [datetime.strptime(row[-2], "%Y-%m-%d %H:%M:%S.%f").replace(tzinfo=UTC) for row in rows]
    assert min(created) >= JANUARY.start
    assert max(created) < MARCH.end
    assert created != sorted(created), "ids are not quite in the order of created_at"
    assert max(created) - min(created) > timedelta(days=80)
    assert max(len(row[4]) for row in rows) <= 320
