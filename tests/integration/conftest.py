"""The real embedded parts, started once for the session on free ports and a state folder of its own.

A part that cannot start fails the tests that need it; nothing is skipped. The warehouse may be another one
(`another_warehouse`): that is how the same tests run on a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, insert

from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.tables import erasure
from email_platform.local.stack.stack import clean_environment, running_stack
from email_platform.settings import Settings, variable_of
from tests.integration.another_warehouse import another_warehouse
from tests.integration.own_databases import OWN_BUCKETS, own_settings


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """PostgreSQL, S3, ClickHouse and the provider simulator, prepared; without Dagster."""
    folder = tmp_path_factory.mktemp("stack")
    buckets = {variable_of("embedded_clickhouse_buckets"): ",".join(OWN_BUCKETS)}
    with (
        another_warehouse(folder / "warehouse") as variables,
        running_stack(folder / "state", environ=clean_environment() | buckets | variables) as settings,
    ):
        yield settings


@pytest.fixture
def settings(stack: Settings) -> Settings:
    """The settings of the running stack."""
    return stack


@pytest.fixture(scope="session")
def oltp_engine(stack: Settings) -> Iterator[Engine]:
    """The OLTP database, migrated; somebody was erased there, so whoever reads addresses without the key fails."""
    from email_platform.adapters.assembly import open_oltp

    key = erasure_key(stack)
    assert key is not None
    with open_oltp(stack) as engine:
        somebody = {"pseudonym": key.pseudonym("erased@example.org"), "key_id": key.key_id}
        with engine.begin() as connection:
            connection.execute(insert(erasure).values(somebody))
        yield engine


@pytest.fixture(scope="module")
def own(stack: Settings, request: pytest.FixtureRequest) -> Settings:
    """The stack with databases and a bucket of the test's module, named after it."""
    return own_settings(stack, str(request.module.__name__).rpartition(".")[2].removeprefix("test_"))


@pytest.fixture(scope="module")
def own_engine(own: Settings) -> Iterator[Engine]:
    """The module's own OLTP database."""
    from email_platform.adapters.assembly import open_oltp

    with open_oltp(own) as engine:
        yield engine
