"""From a sender's ``provider`` and ``provider_account`` to the adapter that sends for it.

Invariant: a provider is built complete or not at all: a missing credential or an unknown name stops the
campaign before its first call, with the variable's name and never its value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from pydantic import SecretStr

from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts
from email_platform.adapters.providers.simulator import SIMULATOR_LIMITS, SimulatorProvider
from email_platform.errors import ConfigurationError
from email_platform.ports import EmailProvider, ProviderLimits

VARIABLE_PREFIX = "EMAIL_PLATFORM"
SIMULATOR_API_KEY_VARIABLE = "EMAIL_PLATFORM_PROVIDER_API_KEY"
_ACCOUNT_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """One account's settings; its repr shows no secret.

    Attributes:
        name: as in ``sender.provider_account``.
        api_key: for every provider but SES.
        base_url: overrides the provider's public address (tests, regional endpoints, the simulator).
        recipients_per_call: lowers the provider's own limit, for large contents.
        region, access_key_id, secret_access_key, configuration_set: SES; without keys, boto3's usual chain.
        domain: Mailgun's sending domain.
        template_id: SendGrid's dynamic template (see `sendgrid`).
        message_stream: Postmark's stream.
    """

    name: str = "default"
    api_key: SecretStr | None = None
    base_url: str | None = None
    recipients_per_call: int | None = None
    region: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    configuration_set: str | None = None
    domain: str | None = None
    template_id: str | None = None
    message_stream: str | None = None


def variable_name(provider: str, account: str, setting: str) -> str:
    """The environment variable of one setting.

    ``EMAIL_PLATFORM_RESEND_API_KEY`` for the account "default", ``EMAIL_PLATFORM_RESEND_ACME_API_KEY`` for
    the account "acme".
    """
    parts = [VARIABLE_PREFIX, provider, *([] if account == "default" else [account]), setting]
    return "_".join(parts).upper().replace("-", "_")


def account_from_variables(provider: str, account: str, variables: Mapping[str, str]) -> ProviderAccount:
    """Read an account's settings from environment variables; absent and empty ones are None.

    Raises:
        ConfigurationError: the account's name cannot be part of a variable's name, or a number is none.
    """
    if not _ACCOUNT_NAME.fullmatch(account):
        raise ConfigurationError(
            f"provider account {account!r}: use letters, digits, '-' and '_', beginning with a letter"
        )

    def text(setting: str) -> str | None:
        return variables.get(variable_name(provider, account, setting), "").strip() or None

    def secret(setting: str) -> SecretStr | None:
        value = text(setting)
        if value is None and (provider, account, setting) == ("simulator", "default", "api_key"):
            # The simulator's process reads its key from this variable; one setting serves both sides.
            value = variables.get(SIMULATOR_API_KEY_VARIABLE, "").strip() or None
        return None if value is None else SecretStr(value)

    recipients = text("recipients_per_call")
    if recipients is not None and not recipients.isdecimal():
        raise ConfigurationError(
            f"{variable_name(provider, account, 'recipients_per_call')} must be a whole number, not {recipients!r}"
        )
    return ProviderAccount(
        name=account,
        api_key=secret("api_key"),
        base_url=text("base_url"),
        recipients_per_call=None if recipients is None else int(recipients),
        region=text("region"),
        access_key_id=secret("access_key_id"),
        secret_access_key=secret("secret_access_key"),
        configuration_set=text("configuration_set"),
        domain=text("domain"),
        template_id=text("template_id"),
        message_stream=text("message_stream"),
    )


@dataclass(frozen=True, slots=True)
class _Building:
    """What a builder needs, with errors that name the variable."""

    provider: str
    account: ProviderAccount
    timeouts: CallTimeouts
    max_connections: int

    def api_key(self) -> str:
        if self.account.api_key is None or not self.account.api_key.get_secret_value():
            raise self.missing("api_key")
        return self.account.api_key.get_secret_value()

    def text(self, setting: str, value: str | None) -> str:
        if not value:
            raise self.missing(setting)
        return value

    def missing(self, setting: str) -> ConfigurationError:
        return ConfigurationError(
            f"provider {self.provider!r}, account {self.account.name!r}: set "
            f"{variable_name(self.provider, self.account.name, setting)}"
        )

    def limits(self, documented: ProviderLimits) -> ProviderLimits:
        wanted = self.account.recipients_per_call
        if wanted is None:
            return documented
        if not 1 <= wanted <= documented.recipients_per_call:
            raise ConfigurationError(
                f"{variable_name(self.provider, self.account.name, 'recipients_per_call')} must be 1 to "
                f"{documented.recipients_per_call}, not {wanted}"
            )
        return replace(documented, recipients_per_call=wanted)


def _simulator(building: _Building) -> EmailProvider:
    return SimulatorProvider(
        base_url=building.text("base_url", building.account.base_url),
        api_key=building.api_key(),
        limits=building.limits(SIMULATOR_LIMITS),
        timeouts=building.timeouts,
        max_connections=building.max_connections,
    )


_BUILDERS: Mapping[str, Callable[[_Building], EmailProvider]] = {
    "simulator": _simulator,
}


def provider_names() -> tuple[str, ...]:
    """The names that ``sender.provider`` may hold, sorted."""
    return tuple(sorted(_BUILDERS))


def build_provider(
    name: str,
    account: ProviderAccount,
    *,
    timeouts: CallTimeouts | None = None,
    max_connections: int = MAXIMUM_CONNECTIONS,
) -> EmailProvider:
    """The adapter of one provider account; does no I/O.

    One adapter per account and event loop; close it with ``aclose``.

    Raises:
        ConfigurationError: an unknown name, a missing credential (which variable) or a limit out of range.
    """
    if name not in _BUILDERS:
        raise ConfigurationError(f"unknown email provider {name!r}; known: {', '.join(provider_names())}")
    return _BUILDERS[name](_Building(name, account, timeouts or CallTimeouts(), max_connections))
