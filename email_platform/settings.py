"""Every setting of the platform, typed and validated once.

Invariant: a missing or wrong setting is said at start with the variable's name and how to mend it, and no
secret is ever part of a repr or a message. A part whose URL is in the environment is external; otherwise its
address and generated secrets come from `<state_folder>/embedded.env`, which `email-platform up` writes.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from email_platform.errors import ConfigurationError

Wanted = TypeVar("Wanted", bound=BaseSettings)

PREFIX = "EMAIL_PLATFORM_"
EMBEDDED_ENV_NAME = "embedded.env"
DEFAULT_STATE_FOLDER = Path(".state")

# The variables that make a part external when the process environment sets them.
PART_VARIABLES: Mapping[str, str] = {
    "postgres": f"{PREFIX}POSTGRES_URL",
    "s3": f"{PREFIX}S3_BUCKET",
    "clickhouse": f"{PREFIX}CLICKHOUSE_URL",
    "provider": f"{PREFIX}PROVIDER_URL",
}


class _ExplicitSettings(BaseSettings):
    """Settings whose values are passed in by `load`: a test's environment is the only one it sees."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="ignore")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what is passed in."""
        return (init_settings,)


class EmbeddedPorts(_ExplicitSettings):
    """Ports of the embedded parts and of the Dagster UI, all on the loopback address."""

    postgres_port: int = Field(15432, ge=1, le=65535)
    s3_port: int = Field(19000, ge=1, le=65535)
    clickhouse_port: int = Field(18123, ge=1, le=65535)
    provider_port: int = Field(18025, ge=1, le=65535)
    dagster_port: int = Field(3000, ge=1, le=65535)
    start_timeout_seconds: float = Field(60.0, gt=0)

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> EmbeddedPorts:
        """Read from the environment.

        Raises:
            ConfigurationError: names the variable.
        """
        return _validated(cls, _named(cls, environ))


class Settings(_ExplicitSettings):
    """The platform's settings; make them with `Settings.load`.

    Attributes:
        postgres_url: OLTP database, ``postgresql+psycopg://user:password@host:port/database``.
        s3_endpoint_url: None for AWS itself; keys None for the ambient AWS credentials.
        s3_endpoint_url_for_clickhouse: the endpoint as ClickHouse sees it; None for the same.
        clickhouse_url: ``http(s)://user:password@host:port/database``.
        provider_url, provider_api_key, provider_webhook_secret: the provider simulator's; real providers' accounts
            are read from EMAIL_PLATFORM_<PROVIDER>_* (see `adapters.providers`).
        public_base_url: where recipients reach the unsubscribe pages.
        unsubscribe_secret: signs unsubscribe links; several separated by commas, of which the first signs.
        chunk_rows: eligible leads per chunk, at most 500 chunks a run should come of it.
        provider_connections: calls in flight per step process; what a crash can leave unknown is 50 times that.
        lease_seconds: a step silent for so long may be taken over.
        stall_seconds: a campaign without a sign of life for so long is resumed.
    """

    state_folder: Path = DEFAULT_STATE_FOLDER
    postgres_url: SecretStr
    s3_endpoint_url: str | None = None
    s3_endpoint_url_for_clickhouse: str | None = None
    s3_bucket: str = Field(min_length=3, max_length=63)
    s3_region: str = "us-east-1"
    s3_access_key_id: str | None = None
    s3_secret_access_key: SecretStr | None = None
    clickhouse_url: SecretStr
    provider_url: str | None = None
    provider_api_key: SecretStr | None = None
    provider_webhook_secret: SecretStr | None = None
    public_base_url: str = "https://mail.example.com"
    unsubscribe_secret: SecretStr = Field(min_length=16)
    chunk_rows: int = Field(10_000, ge=1_000, le=1_000_000)
    provider_connections: int = Field(16, ge=1, le=50)
    lease_seconds: float = Field(20.0, ge=1.0)
    stall_seconds: float = Field(60.0, ge=1.0)

    @field_validator("postgres_url")
    @classmethod
    def _names_its_driver(cls, url: SecretStr) -> SecretStr:
        if urlsplit(url.get_secret_value()).scheme != "postgresql+psycopg":
            raise ValueError("must begin with postgresql+psycopg:// (the driver is named, so that nothing guesses it)")
        return url

    @field_validator("clickhouse_url")
    @classmethod
    def _is_http(cls, url: SecretStr) -> SecretStr:
        parts = urlsplit(url.get_secret_value())
        if parts.scheme not in ("http", "https") or not parts.hostname or not parts.path.strip("/"):
            raise ValueError("must be http(s)://user:password@host:port/database")
        return url

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ, state_folder: Path | None = None) -> Settings:
        """Read the environment and, for what it does not set, the embedded parts' file.

        Args:
            environ: the process environment, or a test's.
            state_folder: overrides EMAIL_PLATFORM_STATE_FOLDER.

        Raises:
            ConfigurationError: names each variable that is missing or wrong, and how to mend it.
        """
        folder = state_folder or Path(environ.get(f"{PREFIX}STATE_FOLDER") or DEFAULT_STATE_FOLDER)
        embedded = read_embedded_env(folder)
        values = {**_named(cls, embedded), **_named(cls, environ), "state_folder": folder}
        return _validated(cls, values)


def read_embedded_env(state_folder: Path) -> dict[str, str]:
    """The variables that the supervisor wrote for the embedded parts; empty where it never ran."""
    path = state_folder / EMBEDDED_ENV_NAME
    if not path.exists():
        return {}
    return {name: value for name, value in dotenv_values(path, interpolate=False).items() if value is not None}


def _named(settings_class: type[BaseSettings], variables: Mapping[str, str]) -> dict[str, Any]:
    """The class's fields as far as the variables set them; an empty value counts as not set."""
    return {
        name: variables[f"{PREFIX}{name.upper()}"]
        for name in settings_class.model_fields
        if variables.get(f"{PREFIX}{name.upper()}")
    }


def _validated(settings_class: type[Wanted], values: Mapping[str, Any]) -> Wanted:
    try:
        return settings_class(**values)
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_input=False, include_url=False, include_context=False):
            variable = f"{PREFIX}{str(detail['loc'][0]).upper()}"
            if detail["type"] == "missing":
                problems.append(f"{variable} is not set: set it, or start the embedded part with `email-platform up`")
            else:
                problems.append(f"{variable}: {detail['msg']}")
        raise ConfigurationError("; ".join(problems)) from None
