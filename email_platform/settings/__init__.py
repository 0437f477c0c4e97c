"""Every setting of the platform, in one frozen object that is validated once.

Invariant: a process either holds complete, checked settings or stops with an error that names the environment
variable and how to mend it; and no secret is ever in a repr, a message or a log line.

Each setting is the environment variable ``EMAIL_PLATFORM_<NAME>``. A part (PostgreSQL, S3, ClickHouse, the
provider, the receiver of its events) whose address is set in the environment is *external*; every other part is
*embedded*, and its address and credentials come from ``<state_folder>/embedded.env``, which the supervisor
writes. The values of an external part never fall back to that file: a local access key must not be tried on AWS.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator

from email_platform.errors import ConfigurationError

VARIABLE_PREFIX = "EMAIL_PLATFORM_"
EMBEDDED_FILE_NAME = "embedded.env"
DAGSTER_DATABASE = "dagster"
LEGACY_DATABASE = "legacy"
DEFAULT_LEGACY_FIRST_MONTH = "2020-01"
MONTH_PATTERN = r"^(19|20|21)\d\d-(0[1-9]|1[0-2])$"
_POSTGRES_SCHEMES = ("postgresql", "postgresql+psycopg", "postgresql+psycopg2")

PartName = Literal["postgres", "s3", "clickhouse", "provider", "receiver"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)

_FIELDS_OF_PART: Mapping[PartName, tuple[str, ...]] = {
    "postgres": ("postgres_url", "dagster_postgres_url", "legacy_postgres_url"),
    "s3": ("s3_bucket", "s3_endpoint_url", "s3_region", "s3_access_key_id", "s3_secret_access_key"),
    "clickhouse": ("clickhouse_url",),
    "provider": ("provider_url", "provider_api_key", "provider_webhook_secret"),
    "receiver": ("receiver_url",),
}
# Setting one of these makes the part external. S3 has two: AWS itself needs no endpoint, only a bucket.
_ADDRESSES_OF_PART: Mapping[PartName, tuple[str, ...]] = {
    "postgres": ("postgres_url",),
    "s3": ("s3_bucket", "s3_endpoint_url"),
    "clickhouse": ("clickhouse_url",),
    "provider": ("provider_url",),
    "receiver": ("receiver_url",),
}
_PART_OF_REQUIRED_FIELD = {"postgres_url": "postgres", "s3_bucket": "s3", "clickhouse_url": "clickhouse"}

Port = Annotated[int, Field(ge=1, le=65535)]
PositiveInt = Annotated[int, Field(ge=1)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, le=1)]


class Settings(BaseModel):
    """The platform's settings; build them with `load`.

    Attributes:
        state_folder: the embedded parts' data, logs and ``embedded.env``.
        postgres_url: the OLTP database, ``postgresql+psycopg://user:password@host:port/database``.
        dagster_postgres_url: Dagster's storage, by default the database ``dagster`` on the same server as
            `postgres_url`. Its driver is always psycopg2, which dagster-postgres is written for: SQLAlchemy 2.1
            gives a bare ``postgresql://`` psycopg 3, with which its NOTIFY statements are syntax errors.
        s3_endpoint_url: None for AWS itself.
        s3_endpoint_url_for_clickhouse: the same endpoint as ClickHouse reaches it, where that differs.
        s3_bucket: the staging bucket.
        s3_access_key_id, s3_secret_access_key: both or neither; None for boto3's usual chain.
        clickhouse_url: ``http(s)://user:password@host:port/database``.
        clickhouse_cluster: the tables are made on this cluster, replicated; None for one server. With
            clickhouse_sharded it has several shards.
        clickhouse_storage_policy, clickhouse_cold_after_months: rows that old go to the policy's volume ``cold``.
        clickhouse_keep_events_months: events older than that are deleted; None: never.
        provider_url, provider_api_key: the simulator's; None where campaigns use real providers, whose
            accounts have their own variables (see `email_platform.adapters.providers.registry`).
        provider_webhook_url: where the simulator delivers its events, by default the receiver; without one they wait
            in its outbox.
        provider_webhook_secret: proves the simulator's events.
        receiver_url: where this machine reaches the receiver of events; None where nobody needs to.
        receiver_processes: how many embedded receivers share `receiver_port`.
        public_base_url: where recipients reach the unsubscribe page, by default `receiver_url`; no slash at the end.
        unsubscribe_secret: signs the links in it.
        chunk_rows: recipients of one chunk.
        provider_connections: calls in flight of one process.
        lease_seconds: how long a chunk's lease lives without renewal.
        stall_seconds: a campaign without progress for so long is resumed.
        guard_bounce_rate, guard_complaint_rate: shares of the accepted messages at which a campaign is paused.
        guard_minimum_accepted, guard_minimum_events: below this sample, or from fewer bounces or complaints, nothing
            is concluded.
        alert_webhook_url: where alerts are POSTed as JSON with a ``text``; a credential. None: the log alone.
        max_concurrent_runs: how many Dagster runs go side by side.
        reports_interval_seconds: how long after a refresh of the reports began the next one may, while changes come in.
        partition_days: how long an ended campaign keeps its partition in Dagster, which takes 100,000 of them.
        legacy_postgres_url: the database with the old table ``email``, best a read replica's; None: nothing to
            import. On the embedded server the database `LEGACY_DATABASE`, to practise on.
        legacy_first_month: of the old rows' created_at, YYYY-MM; the first partition. Read by Dagster's code when it
            loads, so a change needs a restart.
        legacy_table: its name, with the schema where that is not on the search path.
        legacy_ignored_columns: of the old table, with commas between them: may stay behind.
        legacy_rows_per_second: how many rows an import reads at most, on average; what it only counts included.
        legacy_statement_timeout_seconds, legacy_lock_timeout_seconds: when a statement at the source gives up.
        start_timeout_seconds: how long one embedded part may take until it answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    state_folder: Path
    postgres_url: SecretStr
    dagster_postgres_url: SecretStr = SecretStr("")
    s3_endpoint_url: str | None = None
    s3_endpoint_url_for_clickhouse: str | None = None
    s3_bucket: Annotated[str, Field(min_length=3, max_length=63)]
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    clickhouse_url: SecretStr
    clickhouse_cluster: str | None = None
    clickhouse_sharded: bool = False
    clickhouse_storage_policy: str | None = None
    clickhouse_cold_after_months: PositiveInt | None = None
    clickhouse_keep_events_months: PositiveInt | None = None
    provider_url: str | None = None
    provider_api_key: SecretStr | None = None
    provider_webhook_secret: SecretStr | None = None
    provider_webhook_url: str | None = None
    receiver_url: str | None = None
    receiver_processes: Annotated[int, Field(ge=1, le=64)] = 1
    public_base_url: str = "http://127.0.0.1:18080"
    unsubscribe_secret: SecretStr
    postgres_port: Port = 15432
    s3_port: Port = 19000
    clickhouse_port: Port = 18123
    provider_port: Port = 18025
    receiver_port: Port = 18080
    dagster_port: Port = 3000
    chunk_rows: PositiveInt = 10_000
    provider_connections: Annotated[int, Field(ge=1, le=512)] = 16
    lease_seconds: PositiveSeconds = 20.0
    stall_seconds: PositiveSeconds = 60.0
    guard_bounce_rate: Share = 0.05
    guard_complaint_rate: Share = 0.003
    guard_minimum_accepted: PositiveInt = 200
    guard_minimum_events: PositiveInt = 3
    alert_webhook_url: SecretStr | None = None
    max_concurrent_runs: PositiveInt = 4
    reports_interval_seconds: Annotated[float, Field(ge=0)] = 60.0
    partition_days: Annotated[float, Field(gt=0)] = 90.0
    legacy_postgres_url: SecretStr | None = None
    legacy_first_month: Annotated[str, Field(pattern=MONTH_PATTERN)] = DEFAULT_LEGACY_FIRST_MONTH
    legacy_table: str = "email"
    legacy_ignored_columns: str = ""
    legacy_rows_per_second: Annotated[float, Field(gt=0)] = 50_000
    legacy_statement_timeout_seconds: PositiveSeconds = 60.0
    legacy_lock_timeout_seconds: PositiveSeconds = 2.0
    start_timeout_seconds: PositiveSeconds = 60.0

    @classmethod
    def load(cls, environ: Mapping[str, str] | None = None, *, state_folder: Path | None = None) -> Self:
        """Read the settings: the environment comes before ``<state_folder>/embedded.env``.

        Args:
            environ: the variables; the process environment by default. Empty ones count as not set.
            state_folder: overrides EMAIL_PLATFORM_STATE_FOLDER.

        Raises:
            ConfigurationError: names every variable that is missing or wrong and how to mend it.
        """
        variables = os.environ if environ is None else environ
        folder = state_folder_of(variables) if state_folder is None else state_folder.absolute()
        values: dict[str, Any] = embedded_values(folder, variables) | values_of(variables, tuple(cls.model_fields))
        return cls.checked({**values, "state_folder": folder})

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Validate values by field name.

        Raises:
            ConfigurationError: names every variable that is missing or wrong and how to mend it.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as invalid:
            lines = [_mend(error["type"], error["loc"], error["msg"]) for error in invalid.errors(include_input=False)]
        # Raised outside the handler: the original error holds the values, secrets among them.
        raise ConfigurationError("\n".join(lines))

    @field_validator("postgres_url", "dagster_postgres_url", "legacy_postgres_url")
    @classmethod
    def _check_postgres_url(cls, url: SecretStr | None) -> SecretStr | None:
        text = url.get_secret_value() if url is not None else ""
        if text and (urlsplit(text).scheme not in _POSTGRES_SCHEMES or not _has_database(text)):
            raise ValueError("must look like postgresql+psycopg://user:password@host:port/database")
        return url

    @field_validator("clickhouse_url")
    @classmethod
    def _check_clickhouse_url(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if urlsplit(text).scheme not in ("http", "https") or not _has_database(text):
            raise ValueError("must look like http(s)://user:password@host:port/database")
        return url

    @field_validator(
        *("s3_endpoint_url", "s3_endpoint_url_for_clickhouse", "provider_url", "provider_webhook_url"),
        *("receiver_url", "public_base_url"),
    )
    @classmethod
    def _check_http_url(cls, url: str | None) -> str | None:
        if url is None:
            return None
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must look like http(s)://host:port")
        if parts.username or parts.password:
            raise ValueError("must hold no credentials: they have variables of their own")
        return url.rstrip("/")

    @field_validator("alert_webhook_url")
    @classmethod
    def _check_alert_webhook_url(cls, url: SecretStr | None) -> SecretStr | None:
        if url is not None and not urlsplit(url.get_secret_value()).hostname:
            raise ValueError("must look like https://host/path")
        return url

    @field_validator("unsubscribe_secret")
    @classmethod
    def _check_secret_length(cls, secret: SecretStr) -> SecretStr:
        if len(secret.get_secret_value()) < 16:
            raise ValueError("must have at least 16 characters")
        return secret

    @model_validator(mode="before")
    @classmethod
    def _complete_public_base_url(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("public_base_url") or not values.get("receiver_url"):
            return values
        return {**values, "public_base_url": values["receiver_url"]}

    @model_validator(mode="before")
    @classmethod
    def _normalise_postgres_urls(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        url = _plain(values.get("postgres_url"))
        dagster_url = _plain(values.get("dagster_postgres_url")) or _with_database(url, DAGSTER_DATABASE)
        return {
            **values,
            # A bare postgresql:// means another driver in another SQLAlchemy release: name it.
            **({"postgres_url": _with_scheme(url, "postgresql+psycopg")} if url else {}),
            **({"dagster_postgres_url": _with_scheme(dagster_url, "postgresql+psycopg2")} if dagster_url else {}),
        }

    @model_validator(mode="after")
    def _check_key_pair(self) -> Self:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError(
                f"{variable_of('s3_access_key_id')} and {variable_of('s3_secret_access_key')}: set both, "
                "or neither to use AWS credentials from the surroundings"
            )
        return self

    def postgres_password(self) -> str:
        """The password in `postgres_url`."""
        return unquote(urlsplit(self.postgres_url.get_secret_value()).password or "")

    def variables(self) -> dict[str, str]:
        """All settings as environment variables, secrets in plain text: for a child process's environment only."""
        plain: dict[str, str] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is not None:
                plain[variable_of(name)] = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
        return plain


def variable_of(field_name: str) -> str:
    """The environment variable of a setting."""
    return VARIABLE_PREFIX + field_name.upper()


def state_folder_of(variables: Mapping[str, str]) -> Path:
    """The state folder, absolute: EMAIL_PLATFORM_STATE_FOLDER, or ``.state`` under the current folder."""
    return Path(variables.get(variable_of("state_folder"), "").strip() or ".state").expanduser().absolute()


def external_parts(variables: Mapping[str, str]) -> frozenset[PartName]:
    """The parts whose address the environment gives."""
    return frozenset(
        part
        for part, names in _ADDRESSES_OF_PART.items()
        if any(variables.get(variable_of(name), "").strip() for name in names)
    )


def embedded_values(state_folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """What ``embedded.env`` says, by field name, without the values of external parts; empty without the file."""
    path = state_folder / EMBEDDED_FILE_NAME
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return {}
    except OSError as unreadable:
        raise ConfigurationError(
            f"cannot read {path}: {unreadable.strerror}; run as the user who started the embedded parts, "
            f"or set {variable_of('state_folder')} to another folder"
        ) from unreadable
    pairs = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    foreign = {name for part in external_parts(variables) for name in _FIELDS_OF_PART[part]}
    values = values_of(pairs, tuple(Settings.model_fields))
    return {name: value for name, value in values.items() if name not in foreign}


def values_of(variables: Mapping[str, str], names: tuple[str, ...]) -> dict[str, str]:
    """The settings that these variables give, by field name; empty variables count as not set."""
    found = {name: variables.get(variable_of(name), "").strip() for name in names}
    return {name: value for name, value in found.items() if value}


def _mend(kind: str, location: tuple[int | str, ...], message: str) -> str:
    """One line that names the variable and says what to do."""
    if not location:
        return message.removeprefix("Value error, ")
    name = str(location[0])
    if kind == "missing":
        if name == "unsubscribe_secret":
            what = "a secret of at least 16 characters"
        else:
            what = f"the address of your own {_PART_OF_REQUIRED_FIELD.get(name, name)}"
        return (
            f"{variable_of(name)} is not set: set it to {what}, "
            "or start the embedded part with `email-platform up` (and run this in the same folder)"
        )
    return f"{variable_of(name)}: {message.removeprefix('Value error, ')}"


def _plain(value: Any) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value or "")


def _has_database(url: str) -> bool:
    parts = urlsplit(url)
    return bool(parts.hostname) and len(parts.path) > 1


def _with_database(url: str, database: str) -> str:
    """The same server's other database; nothing where the URL is wrong anyway, so that one mistake is told once."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"/{database}")) if parts.scheme.startswith("postgresql") else ""


def _with_scheme(url: str, scheme: str) -> str:
    """The same URL with the driver that its reader needs; a foreign scheme stays, to be refused."""
    parts = urlsplit(url)
    return url.replace(parts.scheme, scheme, 1) if parts.scheme in _POSTGRES_SCHEMES else url
