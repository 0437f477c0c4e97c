"""Every setting of the platform, in one frozen object that is validated once; one model per part.

Invariant: a process either holds complete, checked settings or stops with an error that names the environment
variable and how to mend it; and no secret is ever in a repr, a message or a log line.

Each setting is the environment variable ``EMAIL_PLATFORM_<NAME>``. A part (PostgreSQL, S3, ClickHouse, the
provider, the receiver of its events) whose address is set in the environment is *external*; every other part is
*embedded*, and its address and credentials come from ``<state_folder>/embedded.env``, which the supervisor
writes. The values of an external part never fall back to that file: a local access key must not be tried on AWS.

pydantic-settings reads and merges; `Settings.load` names what it reads from, and nothing else does. By itself a
`BaseSettings` would read the process's environment whenever one is built, from `checked` too.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import SecretStr, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from email_platform.errors import ConfigurationError, wrong_value
from email_platform.settings.alerts import AlertSettings
from email_platform.settings.api import ApiSettings
from email_platform.settings.clickhouse import CLICKHOUSE, ClickHouseSettings
from email_platform.settings.erasure import ErasureSettings
from email_platform.settings.lead_source import LeadSourceSettings
from email_platform.settings.legacy import (
    DEFAULT_LEGACY_FIRST_MONTH,
    LEGACY_DATABASE,
    MONTH_PATTERN,
    LegacySettings,
)
from email_platform.settings.names import (
    EMBEDDED_FILE_NAME,
    PART_NAMES,
    VARIABLE_PREFIX,
    PartName,
    ReplaceablePart,
    state_folder_of,
    variable_of,
)
from email_platform.settings.object_store import OBJECT_STORE, ObjectStoreSettings
from email_platform.settings.postgres import DAGSTER_DATABASE, POSTGRES, PostgresSettings
from email_platform.settings.provider import PROVIDER, ProviderSettings
from email_platform.settings.receiver import RECEIVER, ReceiverSettings
from email_platform.settings.retention import RetentionSettings
from email_platform.settings.runs import RunSettings
from email_platform.settings.sending import SendingSettings
from email_platform.settings.sources import VariablesSource, embedded_source, is_secret, text_of
from email_platform.settings.stack import StackSettings
from email_platform.settings.tracing import TracingSettings
from email_platform.settings.values import is_mysql, plain

__all__ = [
    "DAGSTER_DATABASE",
    "DEFAULT_LEGACY_FIRST_MONTH",
    "EMBEDDED_FILE_NAME",
    "LEGACY_DATABASE",
    "MONTH_PATTERN",
    "PART_NAMES",
    "VARIABLE_PREFIX",
    "PartName",
    "Settings",
    "embedded_values",
    "external_parts",
    "is_mysql",
    "state_folder_of",
    "text_of",
    "values_of",
    "variable_of",
]

_Built = TypeVar("_Built")
_PARTS: tuple[ReplaceablePart, ...] = (POSTGRES, OBJECT_STORE, CLICKHOUSE, PROVIDER, RECEIVER)
_PART_OF_REQUIRED_FIELD = {"postgres_url": "postgres", "s3_bucket": "s3", "clickhouse_url": "clickhouse"}


class Settings(
    StackSettings,
    AlertSettings,
    TracingSettings,
    LegacySettings,
    ErasureSettings,
    LeadSourceSettings,
    RetentionSettings,
    RunSettings,
    SendingSettings,
    ReceiverSettings,
    ApiSettings,
    ProviderSettings,
    ClickHouseSettings,
    ObjectStoreSettings,
    PostgresSettings,
    BaseSettings,
):
    """The platform's settings; build them with `load`. Each attribute is explained at its part's model."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what is given: the environment is read by `load` only."""
        return (init_settings,)

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
        sources = (
            InitSettingsSource(cls, {"state_folder": folder}),
            VariablesSource(cls, variables),
            embedded_source(cls, folder, variables, _PARTS),
        )
        build: Callable[..., Self] = cls  # the type checkers know a model's fields only, not pydantic-settings' own
        return _validated(lambda: build(_build_sources=(sources, {})))

    @classmethod
    def checked(cls, values: Mapping[str, Any]) -> Self:
        """Validate values by field name; nothing else is read.

        Raises:
            ConfigurationError: names every variable that is missing or wrong and how to mend it.
        """
        given = {
            name: SecretStr(plain(value)) if value and name in cls.model_fields and is_secret(cls.model_fields[name])
            else value
            for name, value in values.items()
        }  # fmt: skip
        return _validated(lambda: cls.model_validate(given))

    def variables(self) -> dict[str, str]:
        """All settings as environment variables, secrets in plain text: for a child process's environment only."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return {
            variable_of(name): value.get_secret_value() if isinstance(value, SecretStr) else str(value)
            for name, value in values.items()
            if value is not None
        }


def external_parts(variables: Mapping[str, str]) -> frozenset[PartName]:
    """The parts whose address the environment gives."""
    return frozenset(part.name for part in _PARTS if part.is_external(variables))


def embedded_values(state_folder: Path, variables: Mapping[str, str]) -> dict[str, str]:
    """What ``embedded.env`` says, by field name and in plain text, without the values of external parts.

    Raises:
        ConfigurationError: the file is there and cannot be read.
    """
    values = embedded_source(Settings, state_folder, variables, _PARTS)()
    return {name: plain(value) for name, value in values.items()}


def values_of(variables: Mapping[str, str]) -> dict[str, str]:
    """The settings that these variables give, by field name and in plain text; empty ones count as not set."""
    return {name: plain(value) for name, value in VariablesSource(Settings, variables)().items()}


def _validated(build: Callable[[], _Built]) -> _Built:
    """What is built, or one line for every variable that is wrong."""
    try:
        return build()
    except ValidationError as invalid:
        lines = [
            _mend(error["type"], error["loc"], wrong_value(error["type"], error["msg"], error.get("ctx", {})))
            for error in invalid.errors(include_input=False)
        ]
    # Raised outside the handler: the original error holds the values, secrets among them.
    raise ConfigurationError("\n".join(lines))


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
    return f"{variable_of(name)}: {message}"
