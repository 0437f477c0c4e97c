"""The migrations make exactly the tables that the code believes in, also when several processes run them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, make_url, text
from sqlalchemy.exc import ProgrammingError

from email_platform.adapters.postgres.engine import check_connection, create_oltp_engine
from email_platform.adapters.postgres.migrate import MIGRATION_OPTIONS, upgrade_to_head
from email_platform.adapters.postgres.tables import metadata
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.local.stack.part import free_port
from email_platform.settings import Settings

pytestmark = pytest.mark.integration

VERSION_TABLE = MIGRATION_OPTIONS["version_table"]
_numbers = count()


@contextmanager
def connected(url: str) -> Iterator[Engine]:
    engine = create_oltp_engine(url)
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The URL of an empty database of the test's own."""
    url = settings.postgres_url.get_secret_value()
    name = f"test_migrations_{next(_numbers)}"
    with connected(url) as server, server.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT")
        connection.execute(text(f"drop database if exists {name} with (force)"))
        connection.execute(text(f"create database {name}"))
        try:
            yield make_url(url).set(database=name).render_as_string(False)
        finally:
            connection.execute(text(f"drop database {name} with (force)"))


@pytest.fixture
def empty_database_url(settings: Settings) -> Iterator[str]:
    with database(settings) as url:
        yield url


@pytest.fixture
def silent_port() -> int:
    """A port on which nothing listens."""
    return free_port()


def test_the_migrated_database_has_exactly_the_tables_of_the_code(empty_database_url: str) -> None:
    upgrade_to_head(empty_database_url)
    with connected(empty_database_url) as engine, engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection, opts=dict(MIGRATION_OPTIONS)), metadata) == []


def test_check_constraints_and_partial_indexes_are_the_codes_too(empty_database_url: str, settings: Settings) -> None:
    """Alembic compares neither, so a second database is made from the metadata and both are asked."""
    upgrade_to_head(empty_database_url)
    with (
        database(settings) as created_url,
        connected(created_url) as created,
        connected(empty_database_url) as migrated,
    ):
        metadata.create_all(created)
        assert definitions(migrated) == definitions(created)


def definitions(engine: Engine) -> set[tuple[str, str]]:
    constraints = text("""
        select conrelid::regclass::text || '.' || conname, pg_get_constraintdef(oid) from pg_constraint
        where connamespace = 'public'::regnamespace
    """)
    indexes = text("select indexname, indexdef from pg_indexes where schemaname = 'public'")
    columns = text("""
        select table_name || '.' || column_name,
               concat_ws(' ', data_type, is_nullable, column_default, identity_generation)
        from information_schema.columns where table_schema = 'public'
    """)
    with engine.connect() as connection:
        return {
            (str(name), str(definition))
            for statement in (constraints, indexes, columns)
            for name, definition in connection.execute(statement)
            if VERSION_TABLE not in str(name)
        }


def test_upgrading_again_changes_nothing_and_says_nothing(
    empty_database_url: str, capfd: pytest.CaptureFixture[str]
) -> None:
    upgrade_to_head(empty_database_url)
    upgrade_to_head(empty_database_url)
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("alembic").level == logging.NOTSET


def test_processes_that_upgrade_at_once_all_find_the_database_at_head(empty_database_url: str, tmp_path: Path) -> None:
    script = (
        "import sys; from email_platform.adapters.postgres.migrate import upgrade_to_head; "
        "sys.stdin.readline(); upgrade_to_head(sys.argv[1])"
    )
    root = str(Path(__file__).parents[4])
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, empty_database_url],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env={"PYTHONPATH": root},
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        _, printed = process.communicate(timeout=60)
        assert (process.returncode, printed) == (0, "")
    with connected(empty_database_url) as engine:
        assert set(inspect(engine).get_table_names()) == {*metadata.tables, VERSION_TABLE}


def test_a_failed_upgrade_leaves_nothing_behind(empty_database_url: str) -> None:
    with connected(empty_database_url) as engine:
        with engine.begin() as connection:
            connection.execute(text("create table send_call (taken integer)"))
        with pytest.raises(ProgrammingError, match="send_call"):
            upgrade_to_head(empty_database_url)
        assert inspect(engine).get_table_names() == ["send_call"]


def test_dagsters_own_version_table_in_the_same_database_is_left_alone(empty_database_url: str) -> None:
    with connected(empty_database_url) as engine:
        with engine.begin() as connection:
            connection.execute(text("create table alembic_version (version_num varchar(32) not null)"))
            connection.execute(text("insert into alembic_version values ('dagsters')"))
        upgrade_to_head(empty_database_url)
        with engine.connect() as connection:
            assert connection.execute(text("select version_num from alembic_version")).scalars().all() == ["dagsters"]


def test_a_missing_database_names_the_variable_and_no_password(settings: Settings) -> None:
    url = make_url(settings.postgres_url.get_secret_value()).set(database="no_such_database", password="s3cret")
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_POSTGRES_URL") as caught:
        upgrade_to_head(url.render_as_string(False))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_wrong_password_names_the_variable_and_not_the_password(settings: Settings) -> None:
    url = make_url(settings.postgres_url.get_secret_value()).set(password="s3cret")
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_POSTGRES_URL") as caught:
        upgrade_to_head(url.render_as_string(False))
    assert "s3cret" not in str(caught.value)


def test_a_database_that_does_not_answer_is_named_with_its_address(silent_port: int) -> None:
    with connected(f"postgresql+psycopg://u:s3cret@127.0.0.1:{silent_port}/d") as engine:
        with pytest.raises(PartUnavailableError, match=f"127.0.0.1:{silent_port}") as caught:
            check_connection(engine)
        assert "s3cret" not in f"{caught.value}{engine!r}"
