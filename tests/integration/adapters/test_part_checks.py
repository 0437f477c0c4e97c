"""Does the operator learn before the first campaign which part does not fit, and what to change?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text

from email_platform.adapters.assembly import open_oltp, open_store
from email_platform.adapters.clickhouse.migrate import upgrade_to_head
from email_platform.adapters.health.asking import PartCheck
from email_platform.adapters.part_checks import check_parts
from email_platform.adapters.preparation import prepare
from email_platform.settings import Settings
from tests.integration.clickhouse_process import DATABASE, PASSWORD, USER, running

pytestmark = pytest.mark.integration


def checks(settings: Settings, **changes: object) -> dict[str, PartCheck]:
    return {check.part: check for check in check_parts(settings.model_copy(update=changes), {})}


def with_database(url: SecretStr, database: str) -> SecretStr:
    return SecretStr(urlunsplit(urlsplit(url.get_secret_value())._replace(path=f"/{database}")))


@pytest.fixture
def empty_database(settings: Settings, oltp_engine: Engine) -> Iterator[str]:
    with oltp_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("create database part_checks"))
        yield "part_checks"
        connection.execute(text("drop database part_checks with (force)"))


def test_every_part_of_a_running_stack_fits_and_nothing_of_the_check_is_left(settings: Settings) -> None:
    found = checks(settings)
    assert len(found) == 10
    assert [check for check in found.values() if not check.fits and check.part != "provider accounts"] == []
    assert list(open_store(settings).list("part-checks/")) == []


def test_a_wrong_password_is_reported_without_showing_it_and_hides_no_other_part(settings: Settings) -> None:
    parts = urlsplit(settings.postgres_url.get_secret_value())
    wrong = urlunsplit(parts._replace(netloc=f"{parts.username}:not-the-password@{parts.hostname}:{parts.port}"))
    found = checks(settings, postgres_url=SecretStr(wrong))
    assert not found["PostgreSQL"].fits
    assert "EMAIL_PLATFORM_POSTGRES_URL" in found["PostgreSQL"].says
    assert all("not-the-password" not in check.says for check in found.values())
    assert found["ClickHouse"].fits
    assert found["S3"].fits


def test_a_missing_bucket_is_named(settings: Settings) -> None:
    found = checks(settings, s3_bucket="no-such-bucket")
    assert not found["S3"].fits
    assert "EMAIL_PLATFORM_S3_BUCKET" in found["S3"].says


def test_a_bucket_that_only_clickhouse_cannot_reach_is_reported_as_that(settings: Settings, tmp_path: Path) -> None:
    # The stack's own ClickHouse may reach the stack's S3 alone.
    with running(tmp_path / "data", "--s3-endpoint", "http://127.0.0.1:9") as endpoint:
        url = f"http://{USER}:{quote(PASSWORD, safe='')}@127.0.0.1:{endpoint.port}/{DATABASE}"
        upgrade_to_head(url)
        found = checks(settings, clickhouse_url=SecretStr(url), s3_endpoint_url_for_clickhouse="http://127.0.0.1:9")
    assert found["S3"].fits
    assert found["ClickHouse"].fits
    assert not found["ClickHouse reads S3"].fits
    assert "127.0.0.1:9" in found["ClickHouse reads S3"].says


def test_a_bucket_that_clickhouse_may_not_reach_is_reported_as_a_missing_right(settings: Settings) -> None:
    found = checks(settings, s3_endpoint_url_for_clickhouse="http://127.0.0.1:9")
    assert found["S3"].fits
    assert not found["ClickHouse reads S3"].fits
    assert "lacks a right" in found["ClickHouse reads S3"].says


def test_databases_without_schemas_need_a_migration_and_fit_afterwards(settings: Settings, empty_database: str) -> None:
    changes = {
        "postgres_url": with_database(settings.postgres_url, empty_database),
        "clickhouse_url": with_database(settings.clickhouse_url, "default"),
    }
    before = checks(settings, **changes)
    for part in ("PostgreSQL", "ClickHouse"):
        assert not before[part].fits
        assert "email-platform migrate" in before[part].says
    changes["clickhouse_url"] = settings.clickhouse_url
    prepare(settings.model_copy(update=changes))
    assert checks(settings, **changes)["PostgreSQL"].fits


def test_a_missing_dagster_database_is_named_by_its_variable(settings: Settings) -> None:
    found = checks(settings, dagster_postgres_url=with_database(settings.dagster_postgres_url, "nowhere"))
    assert not found["Dagster's storage"].fits
    assert "EMAIL_PLATFORM_DAGSTER_POSTGRES_URL" in found["Dagster's storage"].says


def test_a_dagster_storage_that_names_no_driver_is_refused_before_it_breaks(settings: Settings) -> None:
    url = settings.dagster_postgres_url.get_secret_value().replace("+psycopg2", "")
    found = {check.part: check for check in check_parts(settings, {"EMAIL_PLATFORM_DAGSTER_POSTGRES_URL": url})}
    assert not found["Dagster's storage"].fits
    assert "postgresql+psycopg2://" in found["Dagster's storage"].says


def add_sender(engine: Engine, provider: str, account: str) -> None:
    with engine.begin() as connection:
        owner = connection.execute(
            text("insert into app_user (email, name) values ('part-checks@example.org', 'P') returning id")
        ).scalar_one()
        connection.execute(
            text(
                "insert into sender (owner_id, from_address, from_name, provider, provider_account) "
                "values (:owner, 'a@example.org', 'A', :provider, :account)"
            ),
            {"owner": owner, "provider": provider, "account": account},
        )


def test_a_sender_s_account_is_checked_for_sending_and_for_events(settings: Settings, empty_database: str) -> None:
    alone = settings.model_copy(update={"postgres_url": with_database(settings.postgres_url, empty_database)})
    prepare(alone, {"postgres"})
    with open_oltp(alone) as engine:
        add_sender(engine, "sendgrid", "part_checks")
    variables: dict[str, str] = {}

    def found() -> PartCheck:
        return next(check for check in check_parts(alone, variables) if check.part == "provider accounts")

    assert not found().fits
    assert "sendgrid/part_checks: " in found().says
    assert "EMAIL_PLATFORM_SENDGRID" in found().says
    variables["EMAIL_PLATFORM_SENDGRID_PART_CHECKS_API_KEY"] = "k"
    assert found().fits, found().says
    assert "without webhook settings, so that their events are refused: sendgrid/part_checks" in found().says
    variables["EMAIL_PLATFORM_SENDGRID_PART_CHECKS_WEBHOOK_PUBLIC_KEY"] = "not-a-key"
    assert not found().fits
    assert "EMAIL_PLATFORM_SENDGRID_PART_CHECKS_WEBHOOK_PUBLIC_KEY" in found().says
    assert "not-a-key" not in found().says
