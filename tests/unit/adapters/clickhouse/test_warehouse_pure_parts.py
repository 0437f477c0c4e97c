"""Addresses, migration files, SQL literals and CSV, without a server."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from email_platform.adapters.clickhouse import dbt_environment, reports_database
from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import translated
from email_platform.adapters.clickhouse.migrate import Migration, pending, read_migrations
from email_platform.adapters.clickhouse.staging_location import StagingLocation
from email_platform.adapters.clickhouse.warehouse import unix_microseconds
from email_platform.adapters.postgres.dimensions import table_of_csv
from email_platform.errors import ConfigurationError, PartUnavailableError

URL = "https://us%40er:p%2F%3A%25w@ch.example.org/mail"


def test_an_address_is_read_from_a_url_and_hides_its_password() -> None:
    address = ClickHouseAddress.parse(URL)
    assert (address.host, address.port, address.user, address.password) == ("ch.example.org", 8443, "us@er", "p/:%w")
    assert (address.database, address.is_secure) == ("mail", True)
    assert "p/:%w" not in f"{address!r} {address}"


@pytest.mark.parametrize(
    "url", ["", "mail", "ftp://h/db", "http:///db", "http://h", "http://h:port/db", "http://u:hidden@h/a/b"]
)
def test_a_url_of_another_shape_is_refused_by_the_variables_name_without_being_shown(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_CLICKHOUSE_URL must look like") as failure:
        ClickHouseAddress.parse(url)
    assert "hidden" not in str(failure.value)


def test_dbt_gets_the_same_address() -> None:
    assert dbt_environment(URL) == {
        "EMAIL_PLATFORM_DBT_HOST": "ch.example.org",
        "EMAIL_PLATFORM_DBT_PORT": "8443",
        "EMAIL_PLATFORM_DBT_USER": "us@er",
        "EMAIL_PLATFORM_DBT_PASSWORD": "p/:%w",
        "EMAIL_PLATFORM_DBT_SCHEMA": "mail",
        "EMAIL_PLATFORM_DBT_SECURE": "true",
        "EMAIL_PLATFORM_DBT_SHARDED": "false",
    }
    assert reports_database(URL) == "mail_reports"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DatabaseError("Code: 516. DB::Exception: x", code=516), ConfigurationError),
        (DatabaseError("Code: 81. DB::Exception: x", code=81), ConfigurationError),
        (DatabaseError("Code: 497. DB::Exception: x"), ConfigurationError),
        (DatabaseError("Code: 241. DB::Exception: memory", code=241), PartUnavailableError),
        (OperationalError("refused"), PartUnavailableError),
    ],
)
def test_an_error_is_a_setting_or_an_outage(error: DatabaseError, expected: type[Exception]) -> None:
    assert type(translated(error, "here", [])) is expected


def test_a_message_is_scrubbed() -> None:
    error = translated(DatabaseError("Code: 241. s3('x', 'hidden')", code=241), "here", ["hidden", ""])
    assert "hidden" not in str(error)
    assert "[HIDDEN]" in str(error)


def test_a_migration_is_split_at_semicolons_that_end_a_line() -> None:
    migration = Migration(1, "x", "-- a; comment;\ncreate a (b String default ';x');\n\n  -- c\nalter b\n  d ;\n")
    assert migration.statements == ("create a (b String default ';x')", "alter b\n  d")


def test_shipped_migrations_may_be_applied_again() -> None:
    for migration in read_migrations():
        for statement in migration.statements:
            assert " if not exists " in statement or " if exists " in statement


def test_migration_files_must_be_named_and_have_versions_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("select 1;")
    (tmp_path / "0003_b.sql").write_text("select 1;")
    assert [migration.version for migration in read_migrations(tmp_path)] == [1, 3]
    (tmp_path / "0001_c.sql").write_text("select 1;")
    with pytest.raises(ConfigurationError, match="share a version"):
        read_migrations(tmp_path)
    (tmp_path / "0003_b.sql").rename(tmp_path / "two.sql")
    with pytest.raises(ConfigurationError, match="must look like"):
        read_migrations(tmp_path)


def test_versions_of_newer_code_are_left_alone() -> None:
    first = Migration(1, "a", "x")
    assert pending([first], {1: first.checksum, 2: "newer"}) == []
    assert pending([first], {}) == [first]


def test_the_table_function_quotes_its_arguments() -> None:
    location = StagingLocation("http://s3/bucket", "id", "se'c\\ret")
    assert (
        location.table_function("k", "Parquet", "a DateTime64(3, 'UTC')")
        == r"s3('http://s3/bucket/k', 'id', 'se\'c\\ret', 'Parquet', 'a DateTime64(3, \'UTC\')')"
    )
    assert "se'c" not in repr(location)


def test_a_role_of_the_server_needs_no_keys() -> None:
    assert StagingLocation("http://s3/bucket").table_function("k", "Parquet", "a Int64") == (
        "s3('http://s3/bucket/k', 'Parquet', 'a Int64')"
    )


def test_a_named_collection_must_be_a_name() -> None:
    with pytest.raises(ConfigurationError, match="named collection"):
        StagingLocation("http://s3/bucket", named_collection="x, url = 'http://evil'")


def test_microseconds_are_exact() -> None:
    assert unix_microseconds(datetime(2026, 3, 29, 12, 0, 0, 123457, tzinfo=UTC)) == 1_774_785_600_123_457


def test_csv_of_postgresql_tells_null_from_empty_and_keeps_line_breaks() -> None:
    schema = pa.schema([("id", pa.int64()), ("name", pa.string()), ("at", pa.timestamp("us", tz="UTC"))])
    csv = (
        b'id,name,at\n"1","",\n"2",,"2026-03-29T12:00:00.123456Z"\n"3","a\r\n""b"", c","2026-03-29T12:00:00.000000Z"\n'
    )
    table = table_of_csv(csv, schema)
    assert table.schema == schema
    assert table.column("name").to_pylist() == ["", None, 'a\r\n"b", c']
    assert table.column("at").to_pylist()[:2] == [None, datetime(2026, 3, 29, 12, 0, 0, 123456, tzinfo=UTC)]
