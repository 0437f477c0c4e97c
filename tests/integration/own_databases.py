"""Databases and a bucket that no other test uses, on the engines that all of them share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.engine import make_url

from email_platform.adapters.clickhouse.migrate import upgrade_to_head
from email_platform.adapters.clickhouse.production_form import production_form
from email_platform.adapters.clickhouse.warehouse import ClickHouseWarehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.engine import create_oltp_engine
from email_platform.adapters.postgres.migrate import upgrade_to_head as upgrade_oltp
from email_platform.settings import Settings

# The provider is shared, and its idempotency keys follow from the campaign's id: a second campaign 1 would meet them.
_first_campaign_ids = count(1_000_000, 1_000_000)
# ClickHouse reaches the buckets that it is started with, so they have their names before anybody asks for one.
OWN_BUCKETS = tuple(f"own-{number}" for number in range(1, 61))
_free_buckets = iter(OWN_BUCKETS)


def own_bucket() -> str:
    """The name of a bucket that nobody else uses and ClickHouse reaches; make it before using it."""
    return next(_free_buckets)


def own_settings(stack: Settings, name: str) -> Settings:
    """The stack with databases and a bucket of this name, migrated and empty, and one for an old system."""
    server = make_url(stack.postgres_url.get_secret_value())
    oltp, old = (
        server.set(database=database).render_as_string(hide_password=False) for database in (name, f"{name}_old")
    )
    with closing_engine(server.render_as_string(hide_password=False)) as admin:
        for database in (name, f"{name}_old"):
            with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.execute(text(f"create database {database}"))
    upgrade_oltp(oltp)
    with closing_engine(oltp) as engine, engine.begin() as connection:
        connection.execute(text(f"alter table campaign alter column id restart with {next(_first_campaign_ids)}"))
    settings = own_warehouse(stack, f"test_{name}").model_copy(
        update={
            "postgres_url": SecretStr(oltp),
            "legacy_url": SecretStr(old),
            "legacy_rows_per_second": 10_000_000.0,
            "s3_bucket": own_bucket(),
            "chunk_rows": 100,
        }
    )
    S3ObjectStore.from_settings(settings).create_bucket()
    return settings


def own_warehouse(settings: Settings, name: str) -> Settings:
    """The same with a migrated, empty database of this name in ClickHouse."""
    url = f"{settings.clickhouse_url.get_secret_value().rsplit('/', 1)[0]}/{name}"
    upgrade_to_head(url, production_form(settings))
    return settings.model_copy(update={"clickhouse_url": SecretStr(url)})


def change_in_place(warehouse: ClickHouseWarehouse, table: str, change: str) -> None:
    """Change rows of a raw table behind the platform's back, on every shard."""
    warehouse.mutate(f"{warehouse.database}.{warehouse.local_table(table)}", change, {"mutations_sync": 2})


@contextmanager
def closing_engine(url: str) -> Iterator[Engine]:
    """A connection pool that is closed on leaving."""
    engine = create_oltp_engine(url)
    yield engine
    engine.dispose()
