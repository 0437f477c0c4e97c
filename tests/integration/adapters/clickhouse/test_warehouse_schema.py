"""The raw tables: migrations that may run twice and side by side, and a connection that explains itself."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest

from email_platform.adapters.clickhouse.address import ClickHouseAddress
from email_platform.adapters.clickhouse.client import clickhouse_errors, connect
from email_platform.adapters.clickhouse.migrate import apply_migrations, read_migrations, upgrade_to_head
from email_platform.adapters.clickhouse.targets import clickhouse_type
from email_platform.domain.manifest import EXCLUDED_SCHEMA
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.settings import Settings
from email_platform.staging.delivery_rows import DELIVERY_SCHEMA
from email_platform.staging.dimensions import DIMENSION_SCHEMAS

pytestmark = pytest.mark.integration


@pytest.fixture
def url(stack: Settings) -> str:
    """The URL of a database that does not exist yet."""
    return f"{stack.clickhouse_url.get_secret_value().rsplit('/', 1)[0]}/test_schema_{uuid4().hex[:8]}"


@pytest.fixture
def client(url: str) -> Iterator[Any]:
    """Connected to the migrated database of `url`."""
    upgrade_to_head(url)
    opened = connect(ClickHouseAddress.parse(url))
    yield opened
    opened.close()


def test_migrating_creates_the_database_and_a_second_time_does_nothing(url: str) -> None:
    names = [f"{migration.version:04}_{migration.name}" for migration in read_migrations()]
    assert upgrade_to_head(url) == names
    assert upgrade_to_head(url) == []


def test_processes_may_migrate_side_by_side(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(upgrade_to_head, [url] * 4))
    assert upgrade_to_head(url) == []


def test_an_edited_file_is_refused_and_a_half_applied_one_is_finished(client: Any) -> None:
    migrations = read_migrations()
    edited = [replace(migrations[0], sql=migrations[0].sql + "\n-- more")]
    with pytest.raises(ConfigurationError, match="was changed after it was applied"):
        apply_migrations(client, edited)
    client.command("truncate table schema_version")
    assert len(apply_migrations(client, migrations)) == len(migrations)


def test_the_tables_have_the_columns_of_the_objects_that_fill_them(client: Any) -> None:
    schemas: dict[str, pa.Schema] = {"delivery": DELIVERY_SCHEMA, "exclusion": EXCLUDED_SCHEMA}
    schemas.update({str(name): schema for name, schema in DIMENSION_SCHEMAS.items()})
    for table, schema in schemas.items():
        rows = client.query(
            "select name, type from system.columns where database = currentDatabase() and table = {table:String}",
            parameters={"table": table},
        ).result_rows
        found = {name: kind.replace("LowCardinality(String)", "String") for name, kind in rows}
        wanted = {column.name: clickhouse_type(column) for column in schema}
        if table == "delivery":
            wanted |= {"message_id": "UUID", "call_id": "UUID"}
        assert found == wanted | {
            "source_object": "String",
            "source_sha256": "String",
            "loaded_at": "DateTime64(3, 'UTC')",
        }


def test_every_loaded_table_remembers_enough_tokens(client: Any) -> None:
    rows = client.query(
        "select name, create_table_query from system.tables "
        "where database = currentDatabase() and name in ('delivery', 'exclusion', 'campaign', 'app_user')"
    ).result_rows
    assert len(rows) == 4
    for _, statement in rows:
        assert "non_replicated_deduplication_window = 200000" in statement


def test_a_wrong_password_names_the_variable_and_shows_nothing(stack: Settings) -> None:
    address = ClickHouseAddress.parse(stack.clickhouse_url.get_secret_value())
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_CLICKHOUSE_URL") as failure:
        connect(replace(address, password="hidden-word"))
    assert "hidden-word" not in f"{failure.value!r} {failure.value.__context__!r}"
    assert address.password not in repr(address)


def test_a_database_that_is_missing_is_named(url: str) -> None:
    address = ClickHouseAddress.parse(url)
    with pytest.raises(ConfigurationError, match=address.database), clickhouse_errors("test", []):
        connect(address).query("select count() from delivery")


def test_an_address_where_nothing_listens_is_unavailable() -> None:
    with pytest.raises(PartUnavailableError, match=r"127\.0\.0\.1:9") as failure:
        upgrade_to_head("http://user:hidden-word@127.0.0.1:9/mail")
    assert "hidden-word" not in f"{failure.value!r} {failure.value.__context__!r}"
