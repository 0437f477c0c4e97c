"""The one reader of provider accounts: what the variables ``EMAIL_PLATFORM_<PROVIDER>[_<ACCOUNT>]_<SETTING>`` say.

Invariant: sending, rate limits, webhooks and `email-platform doctor` find the same account under the same names; an
error names the variable, and a secret's value is in no error and no repr.

``EMAIL_PLATFORM_RESEND_API_KEY`` belongs to Resend's account "default", ``EMAIL_PLATFORM_RESEND_ACME_API_KEY`` to its
account "acme" (``sender.provider_account``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import SecretStr

from email_platform.errors import ConfigurationError
from email_platform.settings.names import VARIABLE_PREFIX, variable_of

_ACCOUNT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")
# The simulator's own process reads these; one setting serves both sides.
_SIMULATOR_VARIABLES: Mapping[str, str] = {
    "api_key": variable_of("provider_api_key"),
    "webhook_secret": variable_of("provider_webhook_secret"),
}


def account_variable(provider: str, account: str, setting: str) -> str:
    """The environment variable of one setting of an account."""
    parts = [VARIABLE_PREFIX.rstrip("_"), provider, *([] if account == "default" else [account]), setting]
    return "_".join(parts).upper().replace("-", "_")


def is_account_name(account: str) -> bool:
    """Whether the name can be part of a variable's name."""
    return _ACCOUNT_NAME.fullmatch(account) is not None


@dataclass(frozen=True, slots=True)
class AccountVariables:
    """The variables of one account; absent and empty ones are None.

    Attributes:
        provider: as in ``sender.provider``.
        account: as in ``sender.provider_account``.
        variables: the environment; in no repr, since secrets are in it.

    Raises:
        ConfigurationError: the account's name cannot be part of a variable's name.
    """

    provider: str
    account: str
    variables: Mapping[str, str] = field(repr=False)

    def __post_init__(self) -> None:
        if not is_account_name(self.account):
            raise ConfigurationError(
                f"provider account {self.account!r}: use letters, digits, '-' and '_', beginning with a letter"
            )

    def name(self, setting: str) -> str:
        """The variable of a setting."""
        return account_variable(self.provider, self.account, setting)

    def text(self, setting: str) -> str | None:
        """A setting as it is written, without blanks around it."""
        value = self.variables.get(self.name(setting), "").strip()
        if not value and (self.provider, self.account) == ("simulator", "default"):
            value = self.variables.get(_SIMULATOR_VARIABLES.get(setting, ""), "").strip()
        return value or None

    def secret(self, setting: str) -> SecretStr | None:
        """A setting that is shown nowhere."""
        value = self.text(setting)
        return None if value is None else SecretStr(value)

    def whole_number(self, setting: str) -> int | None:
        """A setting that counts something.

        Raises:
            ConfigurationError: it is no whole number.
        """
        value = self.text(setting)
        if value is not None and not (value.isascii() and value.isdecimal()):
            raise ConfigurationError(f"{self.name(setting)} must be a whole number, not {value!r}")
        return None if value is None else int(value)

    def rate(self, setting: str) -> float | None:
        """A setting that is so much a second.

        Raises:
            ConfigurationError: it is no positive number.
        """
        value = self.text(setting)
        try:
            rate = None if value is None else float(value)
        except ValueError:
            rate = math.nan
        if rate is not None and not 0 < rate < math.inf:
            raise ConfigurationError(f"{self.name(setting)} must be a positive number, not {value!r}")
        return rate
