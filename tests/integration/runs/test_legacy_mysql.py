"""The old table's import from a real MariaDB: its types and zero dates, changes, outages, rights, rows a second."""

from __future__ import annotations

import itertools
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

import pytest
from pydantic import SecretStr

from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.old_systems import import_legacy_month
from email_platform.errors import ConfigurationError, LegacySourceError, PartUnavailableError
from email_platform.local.demo.legacy_emails import LegacyTable, generate_legacy_emails
from email_platform.runs.legacy_table import Month
from email_platform.settings import Settings
from tests.integration.mariadb_process import MariaDb, running_mariadb
from tests.integration.old_mysql import COLUMNS, CREATE_EMAIL, copy_emails
from tests.integration.own_databases import closing_engine, own_settings
from tests.integration.runs.erased_old_rows import check_that_nobody_comes_back
from tests.integration.runs.imported_emails import ImportedEmails

pytestmark = [pytest.mark.integration, pytest.mark.slow]

JANUARY, FEBRUARY, MARCH = Month(2025, 1), Month(2025, 2), Month(2025, 3)
MONTHS = (JANUARY, FEBRUARY, MARCH)
ROWS = int(os.environ.get("LEGACY_ROWS", "20000"))  # `make legacy-mysql ROWS=5000000`
_names = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Old(ImportedEmails):
    """An old table in MariaDB and a warehouse of one test's own."""

    postgres_settings: Settings
    server: MariaDb
    database: str
    mysql: Any

    def execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.mysql.cursor() as cursor:
            cursor.execute(statement, parameters or None)
            return list(cursor.fetchall())

    def old_rows(self, where: str = "true") -> list[tuple[Any, ...]]:
        """Every column of every row, times as the server's own text in UTC; a zero date is no time."""
        times = {
            "sent_at": "nullif(sent_at, '0000-00-00 00:00:00')",
            "created_at": "created_at",
            "updated_at": "updated_at",
        }
        shown = [f"date_format({times[c]}, '%Y-%m-%d %H:%i:%s.%f')" if c in times else c for c in COLUMNS]
        return self.execute(f"select {', '.join(shown)} from email where {where} order by id")


@pytest.fixture(scope="module")
def mariadb() -> Iterator[MariaDb]:
    with running_mariadb(f"--innodb-buffer-pool-size={'1G' if ROWS > 100_000 else '128M'}") as server:
        yield server


@pytest.fixture
def old(stack: Settings, mariadb: MariaDb) -> Iterator[Old]:
    settings = own_settings(stack, f"mysql_{next(_names)}")
    database = mariadb.make_database()
    warehouse = ClickHouseWarehouse.from_settings(settings)
    mysql = mariadb.connect(database)
    from_mysql = settings.model_copy(update={"legacy_url": SecretStr(mariadb.url(database))})
    yield Old(from_mysql, warehouse, settings, mariadb, database, mysql)
    mysql.close()
    warehouse.close()


@pytest.fixture
def filled(old: Old) -> Old:
    """3,000 generated rows of three months whose ids, 300 to 900,000, are in ten ranges."""
    with closing_engine(old.postgres_settings.legacy_url.get_secret_value()) as engine:
        generate_legacy_emails(engine, LegacyTable(3_000, date(2025, 1, 1), 3), with_indexes=False)
        with engine.begin() as connection:
            connection.exec_driver_sql("update email set id = -id")
            connection.exec_driver_sql("update email set id = id * -300")
        assert copy_emails(engine, old.mysql) == 3_000
    return old


ODD_TEXTS = ["", " ", "trailing  ", ",", "N", "3:abc", "\\N", "\t\n\r\n\f\v", 'it\'s "q" `b` %s', "NULL", "é ß ﬀ",
             "\u202e\u05e9\u05dc 😀 e\u0301", "I\u0307\u0131I", "x" * 20_000]  # fmt: skip
ODD_TIMES = [
    None,
    "0000-00-00 00:00:00",
    "1900-01-01 00:00:00",
    "2299-12-30 23:59:59.999999",
    "1969-12-31 23:59:59.999999",
]


def test_generated_and_odd_rows_arrive_exactly_as_they_were_whatever_their_types(filled: Old) -> None:
    for number, text in enumerate(ODD_TEXTS):
        filled.execute(
            f"insert into email ({', '.join(COLUMNS)}) values (%s, %s, 1, %s, %s, %s, %s, %s, %s, %s, %s, %s)",
            2**62 + number if number % 2 else 900_001 + number, 4_000_000_000, -number, text[:500],
            ODD_TEXTS[-1 - number], text[:20],
            None if number % 2 else f"é{text[:40].encode('latin1', 'ignore').decode('latin1')}{number}",
            None if number % 3 else text, ODD_TIMES[number % len(ODD_TIMES)],
            ["2025-01-01 00:00:00", "2025-01-31 23:59:59.999999"][number % 2], "1970-01-01 00:00:01.5",
        )  # fmt: skip
    reports = [filled.run(month) for month in MONTHS]
    assert sum(report.source_total.rows for report in reports) == 3_000 + len(ODD_TEXTS)
    assert filled.new_rows() == filled.old_rows()
    assert [filled.run(month).copied_ranges for month in MONTHS] == [0, 0, 0]


def test_what_was_changed_at_the_source_is_found_whether_or_not_updated_at_tells(filled: Old) -> None:
    for month in MONTHS:
        filled.run(month)
    for change, moved, removed in [
        ("update email set status = 'bounced', error = 'late', updated_at = updated_at where id = 150000", 0, 0),
        ("update email set subject = upper(subject), updated_at = updated_at where id = 150000", 0, 0),
        ("delete from email where id between 100000 and 149999", 0, 166),
        ("update email set lead_id = 77777777 where id = 150000", 0, 1),
        ("update email set created_at = '2025-03-15 00:00:00' where id = 150000", 1, 0),
    ]:
        filled.execute(change)
        first = filled.run(JANUARY)
        assert (first.copied_ranges, first.moved_rows, first.removed_rows) == (1, moved, removed), change
        filled.run(MARCH)
        assert filled.new_rows() == filled.old_rows(), change


def test_a_source_that_is_written_to_or_goes_away_between_ranges_is_still_equal_in_the_end(filled: Old) -> None:
    def write(done: int, _of: int, _rows: int) -> None:
        filled.execute("update email set status = 'bounced' where id in (%s, 240000)", done * 60_000)
        open_ones = filled.execute("select count(*) from information_schema.processlist where user = 'reader'")
        assert open_ones == [(0,)], "no session, so no snapshot, is open between ranges"

    report = import_legacy_month(filled.settings, JANUARY, write)
    assert report.differences() == []

    def cut(done: int, _of: int, _rows: int) -> None:
        if done == 2:
            filled.execute("rename table email to away")

    filled.execute("update email set error = 'all', updated_at = updated_at")
    with pytest.raises(PartUnavailableError, match="1146"):
        import_legacy_month(filled.settings, JANUARY, cut)
    filled.execute("rename table away to email")
    assert filled.run(JANUARY).copied_ranges == report.copied_ranges - 2
    for month in (FEBRUARY, MARCH):
        filled.run(month)
    assert filled.new_rows() == filled.old_rows()


def test_somebody_who_was_erased_is_a_pseudonym_however_often_the_old_rows_are_imported(filled: Old) -> None:
    check_that_nobody_comes_back(filled.settings, filled.execute, filled.old_rows, filled.new_rows)


def test_a_table_that_the_import_does_not_know_is_refused_with_what_is_wrong(old: Old) -> None:
    row = ("insert into email (campaign_id, user_id, lead_id, email, subject, created_at) "
           "values (1, 1, 1, 'a@example.com', 's', '2025-01-02')")  # fmt: skip
    for change, message in [
        ("alter table email add column opened_at datetime", "opened_at is unknown"),
        ("alter table email drop column error", "error is missing"),
        ("alter table email modify sent_at varchar(30)", r"sent_at is varchar\(30\)"),
        ("alter table email modify lead_id decimal(20)", r"lead_id is decimal\(20,0\)"),
        ("alter table email modify email varbinary(500) not null", "email is varbinary"),
        ("alter table email drop index ix_email_created_at", "no index that starts with created_at"),
        ("alter table email engine = MyISAM", "MyISAM"),
        ("rename table email to emails", "no table 'email'"),
        ("update email set updated_at = 0", "first is id 1"),
        ("update email set sent_at = '1812-01-01'", "first is id 1"),
        ("alter table email modify subject text; update email set subject = null", "first is id 1"),
        ("alter table email modify lead_id bigint unsigned not null; update email set lead_id = 18446744073709551615",
         "first is id 1"),
    ]:  # fmt: skip
        old.execute("drop table if exists email, emails")
        for statement in (CREATE_EMAIL, row, *change.split("; ")):
            old.execute(statement)
        with pytest.raises(LegacySourceError, match=message):
            old.run(JANUARY)
    assert old.new_rows() == []


def test_a_wrong_password_or_right_is_a_setting_and_a_slow_statement_or_a_locked_table_an_outage(filled: Old) -> None:
    wrong = SecretStr(filled.server.url(filled.database, password="wrong-password"))
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_LEGACY_URL") as refusal:
        filled.run(JANUARY, legacy_url=wrong)
    assert "wrong-password" not in str(refusal.value)
    with pytest.raises(PartUnavailableError, match="max_statement_time"):
        filled.run(JANUARY, legacy_statement_timeout_seconds=0.001)
    filled.execute("lock tables email write")
    with pytest.raises(PartUnavailableError, match="1205"):
        filled.run(JANUARY, legacy_lock_timeout_seconds=0.2)
    filled.execute("unlock tables")
    assert filled.run(JANUARY, legacy_table=f"{filled.database}.email").copied_ranges > 0


def test_so_many_rows_are_imported_from_mariadb_as_from_postgresql(old: Old) -> None:
    table = LegacyTable(ROWS, date(2025, 1, 1), 3)
    with closing_engine(old.postgres_settings.legacy_url.get_secret_value()) as engine:
        generate_legacy_emails(engine, table)
        assert copy_emails(engine, old.mysql) == ROWS
    taken: dict[str, float] = {}
    totals = {}
    for name, settings in (("mariadb", old.settings), ("postgresql", old.postgres_settings)):
        began = time.perf_counter()
        reports = [import_legacy_month(settings, month) for month in MONTHS]
        taken[name] = time.perf_counter() - began
        assert all(report.differences() == [] for report in reports)
        totals[name] = [report.source_total for report in reports]
        # What both sides of the second one compare is what the first one made: it has nothing to copy.
        if name == "mariadb":
            assert sum(report.copied_rows for report in reports) == ROWS
            old.warehouse.client.command("create table of_mysql as legacy_email")
            old.warehouse.client.command("insert into of_mysql select * from legacy_email final")
            again = [import_legacy_month(old.postgres_settings, month).copied_ranges for month in MONTHS]
            assert again == [0, 0, 0], "PostgreSQL's checksums of the same rows are MariaDB's"
            old.warehouse.client.command("truncate table legacy_email")
    assert totals["mariadb"] == totals["postgresql"]
    sys.stderr.write("".join(f"\n{name}: {ROWS / seconds:,.0f} rows a second" for name, seconds in taken.items()))
