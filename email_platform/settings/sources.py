"""Where settings are read from: the environment, and ``embedded.env`` for what the environment does not say.

Invariant: an empty variable counts as not set, and a value read for a secret field is a secret from then on, so that
nothing that logs a source's values (PYDANTIC_SETTINGS_DEBUG makes pydantic-settings do so) shows it.

pydantic-settings' own source for the environment is not used: it takes names in any case of letters, while Docker,
shells and `external_parts` know one case only, and it reads the process's environment, while a stack is started with
an environment of its own.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from dotenv import dotenv_values
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from email_platform.errors import ConfigurationError
from email_platform.settings.names import EMBEDDED_FILE_NAME, ReplaceablePart, variable_of

# A setting's earlier name, which is read where the present one is not set.
EARLIER_NAMES: Mapping[str, str] = {"legacy_url": "legacy_postgres_url"}


def text_of(field_name: str, variables: Mapping[str, str]) -> str:
    """What the variables say of a setting, under its present or its earlier name; empty where they do not."""
    names = [name for name in (field_name, EARLIER_NAMES.get(field_name)) if name]
    return next((text for name in names if (text := variables.get(variable_of(name), "").strip())), "")


class VariablesSource(PydanticBaseSettingsSource):
    """Settings from ``EMAIL_PLATFORM_<NAME>`` of a mapping.

    Args:
        settings_cls: whose fields are looked for.
        variables: the mapping.
        left_out: fields that do not come from it.
    """

    def __init__(
        self, settings_cls: type[BaseSettings], variables: Mapping[str, str], left_out: frozenset[str] = frozenset()
    ) -> None:
        super().__init__(settings_cls)
        self._variables = variables
        self._left_out = left_out

    def __repr__(self) -> str:
        return "VariablesSource()"

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value, the field's name, and False: no setting is JSON; the value is None where it is not set."""
        text = text_of(field_name, self._variables)
        if not text or field_name in self._left_out:
            return None, field_name, False
        return SecretStr(text) if is_secret(field) else text, field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values that are set, by field name."""
        found = {name: self.get_field_value(field, name)[0] for name, field in self.settings_cls.model_fields.items()}
        return {name: value for name, value in found.items() if value is not None}


def is_secret(field: FieldInfo) -> bool:
    """Whether the field holds a secret, or may hold one."""
    return field.annotation is SecretStr or _mentions_secret(field.annotation)


def _mentions_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_mentions_secret(one) for one in get_args(annotation))


def embedded_source(
    settings_cls: type[BaseSettings],
    state_folder: Path,
    variables: Mapping[str, str],
    parts: tuple[ReplaceablePart, ...],
) -> VariablesSource:
    """What ``embedded.env`` says, without the values of external parts; nothing without the file.

    Raises:
        ConfigurationError: the file is there and cannot be read.
    """
    path = state_folder / EMBEDDED_FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = ""
    except OSError as unreadable:
        raise ConfigurationError(
            f"cannot read {path}: {unreadable.strerror}; run as the user who started the embedded parts, "
            f"or set {variable_of('state_folder')} to another folder"
        ) from unreadable
    # No interpolation: a `$` in a generated secret is a `$`.
    pairs = dotenv_values(stream=io.StringIO(text), interpolate=False)
    external = frozenset(name for part in parts if part.is_external(variables) for name in part.fields)
    return VariablesSource(
        settings_cls, {name: value for name, value in pairs.items() if value is not None}, left_out=external
    )
