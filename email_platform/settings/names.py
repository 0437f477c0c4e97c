"""How a setting's variable is named, and which parts can be replaced by an address.

Invariant: a variable's name is made in one place, so that an error always names the one that is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

VARIABLE_PREFIX = "EMAIL_PLATFORM_"
EMBEDDED_FILE_NAME = "embedded.env"

PartName = Literal["postgres", "s3", "clickhouse", "provider", "receiver"]
PART_NAMES: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True, slots=True)
class ReplaceablePart:
    """A part that the platform starts by itself unless the environment says where another one is.

    Attributes:
        name: as in `PART_NAMES`.
        addresses: the fields of which one is enough to make the part external.
        fields: the addresses and credentials that never come from ``embedded.env`` for an external part.
    """

    name: PartName
    addresses: tuple[str, ...]
    fields: tuple[str, ...]

    def is_external(self, variables: Mapping[str, str]) -> bool:
        """Whether these variables say where the part is."""
        return any(variables.get(variable_of(name), "").strip() for name in self.addresses)


def variable_of(field_name: str) -> str:
    """The environment variable of a setting."""
    return VARIABLE_PREFIX + field_name.upper()


def state_folder_of(variables: Mapping[str, str]) -> Path:
    """The state folder, absolute: EMAIL_PLATFORM_STATE_FOLDER, or ``.state`` under the current folder."""
    return Path(variables.get(variable_of("state_folder"), "").strip() or ".state").expanduser().absolute()
