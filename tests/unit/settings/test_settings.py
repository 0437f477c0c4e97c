"""Settings are complete and checked, or the error names the variable; secrets never show."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest
from pydantic import ValidationError

from email_platform.errors import ConfigurationError
from email_platform.settings import PART_NAMES, Settings, embedded_values, external_parts, state_folder_of, values_of
from email_platform.settings.clickhouse import CLICKHOUSE
from email_platform.settings.object_store import OBJECT_STORE
from email_platform.settings.postgres import POSTGRES
from email_platform.settings.provider import PROVIDER
from email_platform.settings.receiver import RECEIVER

SECRET = "very-secret-value"
COMPLETE = {
    "EMAIL_PLATFORM_POSTGRES_URL": f"postgresql+psycopg://u:{SECRET}@db:5432/mail",
    "EMAIL_PLATFORM_S3_BUCKET": "staging",
    "EMAIL_PLATFORM_CLICKHOUSE_URL": f"https://u:{SECRET}@ch:8443/mail",
    "EMAIL_PLATFORM_UNSUBSCRIBE_SECRET": SECRET * 2,
}
EMBEDDED = """# comment
EMAIL_PLATFORM_POSTGRES_URL=postgresql+psycopg://e:local@127.0.0.1:15432/email_platform
EMAIL_PLATFORM_DAGSTER_POSTGRES_URL=postgresql+psycopg2://e:local@127.0.0.1:15432/dagster
EMAIL_PLATFORM_S3_ENDPOINT_URL=http://127.0.0.1:19000
EMAIL_PLATFORM_S3_BUCKET=email-platform
EMAIL_PLATFORM_S3_ACCESS_KEY_ID=LOCAL
EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY=local
EMAIL_PLATFORM_CLICKHOUSE_URL=http://e:local@127.0.0.1:18123/email_platform
EMAIL_PLATFORM_PROVIDER_URL=http://127.0.0.1:18025
EMAIL_PLATFORM_PROVIDER_API_KEY=local
EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET=local
EMAIL_PLATFORM_UNSUBSCRIBE_SECRET=local-local-local-local
"""


@pytest.fixture
def embedded_folder(tmp_path: Path) -> Path:
    (tmp_path / "embedded.env").write_text(EMBEDDED)
    return tmp_path


def load(tmp_path: Path, **changes: str) -> Settings:
    environ = COMPLETE | {f"EMAIL_PLATFORM_{name.upper()}": value for name, value in changes.items()}
    return Settings.load(environ, state_folder=tmp_path)


def test_production_settings_come_from_the_environment_alone(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert settings.s3_bucket == "staging"
    assert settings.s3_endpoint_url is None
    assert settings.s3_access_key_id is None
    assert settings.chunk_rows == 10_000


def test_dagsters_database_lies_beside_the_oltp_database_by_default(tmp_path: Path) -> None:
    assert load(tmp_path).dagster_postgres_url.get_secret_value() == f"postgresql+psycopg2://u:{SECRET}@db:5432/dagster"


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgresql+psycopg2"])
def test_each_postgres_url_names_the_driver_that_its_reader_needs(tmp_path: Path, scheme: str) -> None:
    settings = load(tmp_path, postgres_url=f"{scheme}://u:p@h/d", dagster_postgres_url=f"{scheme}://u:p@h/x")
    assert settings.postgres_url.get_secret_value() == "postgresql+psycopg://u:p@h/d"
    assert settings.dagster_postgres_url.get_secret_value() == "postgresql+psycopg2://u:p@h/x"


def test_embedded_parts_come_from_the_state_folder(embedded_folder: Path) -> None:
    settings = Settings.load({"EMAIL_PLATFORM_STATE_FOLDER": str(embedded_folder)})
    assert settings.state_folder == embedded_folder
    assert settings.s3_endpoint_url == "http://127.0.0.1:19000"


def test_the_environment_comes_before_the_state_folder(embedded_folder: Path) -> None:
    settings = Settings.load(
        {"EMAIL_PLATFORM_CLICKHOUSE_URL": "http://u:p@real:8123/mail"}, state_folder=embedded_folder
    )
    assert settings.clickhouse_url.get_secret_value() == "http://u:p@real:8123/mail"
    assert settings.s3_access_key_id == "LOCAL"


def test_an_external_parts_other_values_never_fall_back_to_the_embedded_ones(embedded_folder: Path) -> None:
    settings = Settings.load(
        {"EMAIL_PLATFORM_S3_BUCKET": "real-bucket", "EMAIL_PLATFORM_POSTGRES_URL": "postgresql://u:p@real/mail"},
        state_folder=embedded_folder,
    )
    assert settings.s3_endpoint_url is None
    assert settings.s3_access_key_id is None
    assert settings.dagster_postgres_url.get_secret_value() == "postgresql+psycopg2://u:p@real/dagster"


def test_parts_with_an_address_in_the_environment_are_external() -> None:
    assert external_parts({}) == frozenset()
    assert external_parts(COMPLETE) == {"postgres", "s3", "clickhouse"}
    assert external_parts({"EMAIL_PLATFORM_S3_ENDPOINT_URL": "http://x", "EMAIL_PLATFORM_PROVIDER_URL": " "}) == {"s3"}


def test_recipients_find_the_receiver_at_its_own_address_unless_another_is_set(embedded_folder: Path) -> None:
    receiver = {"EMAIL_PLATFORM_RECEIVER_URL": "http://events:8080/"}
    public = {"EMAIL_PLATFORM_PUBLIC_BASE_URL": "https://mail.example.com"}
    assert external_parts(receiver) == {"receiver"}
    assert Settings.load(receiver, state_folder=embedded_folder).public_base_url == "http://events:8080"
    assert Settings.load(receiver | public, state_folder=embedded_folder).public_base_url == "https://mail.example.com"
    assert Settings.load(public, state_folder=embedded_folder).receiver_url is None


@pytest.mark.parametrize(
    "variable", ["EMAIL_PLATFORM_POSTGRES_URL", "EMAIL_PLATFORM_S3_BUCKET", "EMAIL_PLATFORM_CLICKHOUSE_URL"]
)
def test_a_missing_address_is_named_with_both_ways_to_mend_it(tmp_path: Path, variable: str) -> None:
    environ = {name: value for name, value in COMPLETE.items() if name != variable}
    with pytest.raises(ConfigurationError) as failure:
        Settings.load(environ, state_folder=tmp_path)
    assert f"{variable} is not set" in str(failure.value)
    assert "or start the embedded part with `email-platform up`" in str(failure.value)


def test_behind_a_transaction_pooler_dagster_s_storage_has_an_address_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_DAGSTER_POSTGRES_URL: must be set to the database"):
        load(tmp_path, postgres_pooler="transaction")
    direct = "postgresql+psycopg2://u:p@db:5432/dagster"
    assert load(tmp_path, postgres_pooler="transaction", dagster_postgres_url=direct).postgres_pooler == "transaction"
    assert load(tmp_path).postgres_pooler == "none"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("postgres_url", f"mysql://u:{SECRET}@h/d"),
        ("postgres_url", f"postgresql://u:{SECRET}@h"),
        ("postgres_url", f"postgresql://u:{SECRET}/more@h/d"),
        ("postgres_url", "postgresql://u:p@h:0/d"),
        ("clickhouse_url", f"http://u:{SECRET}/more@h/d"),
        ("clickhouse_url", f"http://u:{SECRET}[@h/d"),
        ("legacy_url", f"mysql://u:{SECRET}#more@h/d"),
        ("lead_source_url", f"mysql://u:{SECRET}/more@h/d"),
        ("lead_source_url", f"mysql://u:{SECRET}@h:99999/d"),
        ("celery_broker_url", f"redis://u:{SECRET}/more@h/0"),
        ("clickhouse_url", f"tcp://u:{SECRET}@h/d"),
        ("clickhouse_url", f"http://u:{SECRET}@h/"),
        ("provider_url", f"http://u:{SECRET}@h"),
        ("public_base_url", "ftp://h"),
        ("console_url", f"https://u:{SECRET}@h"),
        ("receiver_url", f"http://u:{SECRET}@h"),
        ("receiver_processes", "0"),
        ("unsubscribe_secret", "short"),
        ("postgres_port", "0"),
        ("postgres_pooler", "session"),
        ("s3_port", "many"),
        ("chunk_rows", "-1"),
        ("lease_seconds", "0"),
        ("one_process_rows", "-1"),
        ("steps", "threads"),
        ("celery_broker_url", f"amqp://u:{SECRET}@h"),
        ("celery_visibility_seconds", "0"),
        ("worker_slots", "0"),
        ("keep_ledger_days", "-1"),
        ("keep_run_days", "some"),
        ("provider_answer_seconds", "0"),
        ("render_seconds", "0"),
        ("render_memory_megabytes", "10"),
        ("embedded_clickhouse_memory_megabytes", "511"),
        ("embedded_clickhouse_threads", "-1"),
        ("embedded_postgres_shared_megabytes", "0"),
        ("embedded_postgres_work_megabytes", "much"),
        ("embedded_postgres_connections", "5"),
        ("lead_attributes", SECRET),  # of no relation
        ("alert_webhook_url", SECRET),
        ("alert_urls", f"slack://a/b/c {SECRET}"),
        ("alert_late_seconds", "0"),
        ("otlp_url", f"http://u:{SECRET}@collector:4318"),
        ("otlp_url", f"http://collector:4318?token={SECRET}"),
        ("otlp_url", "http://collector:4318/v1/traces"),
    ],
)
def test_a_wrong_value_is_named_and_never_repeated(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as failure:
        load(tmp_path, **{name: value})
    assert str(failure.value).startswith(f"EMAIL_PLATFORM_{name.upper()}: ")
    assert SECRET not in "".join(traceback.format_exception(failure.value))
    assert failure.value.__cause__ is None
    assert failure.value.__context__ is None


def test_one_mistake_gives_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as failure:
        load(tmp_path, postgres_url="mysql://u:p@h/d")
    assert len(str(failure.value).splitlines()) == 1


def test_half_a_key_pair_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_SECRET_ACCESS_KEY: set both"):
        load(tmp_path, s3_access_key_id="AK")


def test_secrets_are_in_no_repr(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        s3_access_key_id="AK",
        s3_secret_access_key=SECRET,
        provider_api_key=SECRET,
        provider_webhook_secret=SECRET,
    )
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)
    assert SECRET not in settings.model_dump_json()


def test_no_secret_is_logged_when_pydantic_settings_logs_its_sources(
    embedded_folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYDANTIC_SETTINGS_DEBUG", "1")
    with caplog.at_level(logging.DEBUG):
        load(embedded_folder, provider_api_key=SECRET, legacy_url=f"postgresql://u:{SECRET}@h/d")
        Settings.checked({"postgres_url": f"postgresql://u:{SECRET}@h/d", "s3_bucket": "staging",
                          "clickhouse_url": f"http://u:{SECRET}@h/d", "unsubscribe_secret": SECRET * 2,
                          "state_folder": embedded_folder})  # fmt: skip
    assert "s3_bucket" in caplog.text, "it does log"
    assert SECRET not in caplog.text
    assert "local-local" not in caplog.text


def test_only_what_is_given_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMAIL_PLATFORM_S3_ACCESS_KEY_ID", "of this process")
    monkeypatch.setenv("EMAIL_PLATFORM_CHUNK_ROWS", "7")
    values = values_of(COMPLETE)
    for settings in (
        load(tmp_path),
        Settings.checked({**values, "state_folder": tmp_path}),
        Settings(**values, state_folder=tmp_path),  # type: ignore[arg-type]
        Settings.model_validate({**values, "state_folder": tmp_path}),
    ):
        assert (settings.s3_access_key_id, settings.chunk_rows) == (None, 10_000)


def test_a_variable_s_name_counts_in_capitals_only(tmp_path: Path) -> None:
    settings = Settings.load({**COMPLETE, "email_platform_s3_region": "eu-west-1"}, state_folder=tmp_path)
    assert settings.s3_region == "us-east-1"


def test_empty_variables_count_as_not_set(tmp_path: Path) -> None:
    assert load(tmp_path, s3_region=" ", chunk_rows="").s3_region == "us-east-1"
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_S3_BUCKET is not set"):
        load(tmp_path, s3_bucket="  ")


def test_the_embedded_file_is_read_as_it_is_written_whatever_a_secret_holds(tmp_path: Path) -> None:
    (tmp_path / "embedded.env").write_text("# made\n\nEMAIL_PLATFORM_PROVIDER_API_KEY=a${HOME}b#c=d\nno assignment\n")
    assert embedded_values(tmp_path, {}) == {"provider_api_key": "a${HOME}b#c=d"}


def test_an_unreadable_embedded_file_is_an_error_with_both_ways_out(tmp_path: Path) -> None:
    (tmp_path / "embedded.env").mkdir()
    with pytest.raises(ConfigurationError, match=r"cannot read .*EMAIL_PLATFORM_STATE_FOLDER"):
        Settings.load({}, state_folder=tmp_path)


def test_settings_are_frozen(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        load(tmp_path).chunk_rows = 1  # type: ignore[misc]


def test_the_settings_survive_a_trip_through_the_environment(embedded_folder: Path) -> None:
    settings = Settings.load({}, state_folder=embedded_folder)
    assert Settings.load(settings.variables()) == settings


def test_the_state_folder_is_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert state_folder_of({}) == tmp_path / ".state"
    assert state_folder_of({"EMAIL_PLATFORM_STATE_FOLDER": "x"}) == tmp_path / "x"


def test_every_field_that_a_part_names_is_a_setting() -> None:
    for part in (POSTGRES, OBJECT_STORE, CLICKHOUSE, PROVIDER, RECEIVER):
        assert {*part.addresses, *part.fields} <= set(Settings.model_fields), part.name
        assert set(part.addresses) <= set(part.fields), "an external part's address is never the embedded one"
    assert tuple(part.name for part in (POSTGRES, OBJECT_STORE, CLICKHOUSE, PROVIDER, RECEIVER)) == PART_NAMES


def test_an_earlier_name_is_read_where_the_present_one_is_not_set(embedded_folder: Path) -> None:
    assert load(embedded_folder, legacy_postgres_url="postgresql://u@old/d").legacy_url.get_secret_value() == (
        "postgresql://u@old/d"
    )
    both = load(embedded_folder, legacy_postgres_url="postgresql://u@old/d", legacy_url="mariadb://u@new/d")
    assert both.legacy_url.get_secret_value() == "mariadb://u@new/d"
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_LEGACY_URL: must look like"):
        load(embedded_folder, legacy_url="oracle://u@h/d")
