"""From a sender's ``provider`` and ``provider_account`` to the adapter that sends for it.

Invariant: a provider is built complete or not at all: a missing credential or an unknown name stops the
campaign before its first call, with the variable's name and never its value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import SecretStr

from email_platform.adapters.providers.http_transport import MAXIMUM_CONNECTIONS, CallTimeouts
from email_platform.adapters.providers.limits import (
    MAILGUN_LIMITS,
    POSTMARK_LIMITS,
    RESEND_LIMITS,
    SENDGRID_LIMITS,
    SES_LIMITS,
    SIMULATOR_LIMITS,
)
from email_platform.adapters.providers.mailgun import MAILGUN_BASE_URL, MailgunProvider
from email_platform.adapters.providers.postmark import (
    DEFAULT_MESSAGE_STREAM,
    POSTMARK_BASE_URL,
    PostmarkProvider,
)
from email_platform.adapters.providers.resend import RESEND_BASE_URL, ResendProvider
from email_platform.adapters.providers.sender_check import (
    SenderCheck,
    cannot_know,
    check_with_mailgun,
    check_with_resend,
    check_with_sendgrid,
    check_with_ses,
)
from email_platform.adapters.providers.sendgrid import SENDGRID_BASE_URL, SendGridProvider
from email_platform.adapters.providers.ses import SesProvider, open_ses_client
from email_platform.adapters.providers.simulator import SimulatorProvider
from email_platform.domain.ports import EmailProvider, ProviderLimits
from email_platform.errors import ConfigurationError
from email_platform.settings.provider_accounts import AccountVariables, account_variable, is_account_name

_LOOPBACK_HOSTS = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class ProviderAccount:
    """One account's settings; its repr shows no secret.

    Attributes:
        name: as in ``sender.provider_account``.
        api_key: for every provider but SES.
        base_url: overrides the provider's public address (tests, regional endpoints, the simulator).
        recipients_per_call: lowers the provider's own limit, for large contents.
        idempotency: "off" where the account must not be trusted to honour keys, as a simulator started without
            them; the ledger then treats its unknown calls as for any other provider.
        region, access_key_id, secret_access_key, configuration_set: SES; without keys, boto3's usual chain.
        domain: Mailgun's sending domain.
        template_id: SendGrid's dynamic template (see `sendgrid`).
        message_stream: Postmark's stream.
    """

    name: str = "default"
    api_key: SecretStr | None = None
    base_url: str | None = None
    recipients_per_call: int | None = None
    idempotency: str | None = None
    region: str | None = None
    access_key_id: SecretStr | None = None
    secret_access_key: SecretStr | None = None
    configuration_set: str | None = None
    domain: str | None = None
    template_id: str | None = None
    message_stream: str | None = None


def account_from_variables(provider: str, account: str, variables: Mapping[str, str]) -> ProviderAccount:
    """Read an account's settings for sending; absent and empty ones are None.

    Raises:
        ConfigurationError: the account's name cannot be part of a variable's name, or a number is none.
    """
    found = AccountVariables(provider, account, variables)
    return ProviderAccount(
        name=account,
        api_key=found.secret("api_key"),
        base_url=found.text("base_url"),
        recipients_per_call=found.whole_number("recipients_per_call"),
        idempotency=found.text("idempotency"),
        region=found.text("region"),
        access_key_id=found.secret("access_key_id"),
        secret_access_key=found.secret("secret_access_key"),
        configuration_set=found.text("configuration_set"),
        domain=found.text("domain"),
        template_id=found.text("template_id"),
        message_stream=found.text("message_stream"),
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

    def base_url(self, public: str | None = None) -> str:
        url = self.text("base_url", self.account.base_url or public)
        parts = urlsplit(url)
        # Over plain HTTP the API key would be readable on the way.
        is_safe = parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK_HOSTS)
        if not is_safe or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise ConfigurationError(
                f"{account_variable(self.provider, self.account.name, 'base_url')} must be https://host[/path] "
                "(http:// on this machine only), without user, query or fragment"
            )
        return url

    def missing(self, setting: str) -> ConfigurationError:
        return ConfigurationError(
            f"provider {self.provider!r}, account {self.account.name!r}: set "
            f"{account_variable(self.provider, self.account.name, setting)}"
        )

    def limits(self) -> ProviderLimits:
        documented = _DOCUMENTED_LIMITS[self.provider]
        if self.account.idempotency not in (None, "on", "off") or (
            self.account.idempotency == "on" and not documented.honours_idempotency_keys
        ):
            raise ConfigurationError(
                f"{account_variable(self.provider, self.account.name, 'idempotency')} must be off"
                + (" or on" if documented.honours_idempotency_keys else "")
                + f", not {self.account.idempotency!r}"
            )
        if self.account.idempotency == "off":
            documented = replace(documented, honours_idempotency_keys=False, idempotency_seconds=0)
        wanted = self.account.recipients_per_call
        if wanted is None:
            return documented
        if not 1 <= wanted <= documented.recipients_per_call:
            raise ConfigurationError(
                f"{account_variable(self.provider, self.account.name, 'recipients_per_call')} must be 1 to "
                f"{documented.recipients_per_call}, not {wanted}"
            )
        return replace(documented, recipients_per_call=wanted)


def _simulator(building: _Building) -> EmailProvider:
    return SimulatorProvider(
        base_url=building.base_url(),
        api_key=building.api_key(),
        limits=building.limits(),
        timeouts=building.timeouts,
        max_connections=building.max_connections,
    )


def _ses_client(building: _Building) -> tuple[Any, tuple[str, ...]]:
    """The account's client, and its secrets."""
    account = building.account
    region = building.text("region", account.region)
    keys = [
        None if key is None else key.get_secret_value() for key in (account.access_key_id, account.secret_access_key)
    ]
    # One key without the other would silently fall back to boto3's chain, and so to another account.
    if (keys[0] is None) != (keys[1] is None):
        raise building.missing("access_key_id" if keys[0] is None else "secret_access_key")
    client = open_ses_client(
        region=region,
        access_key_id=keys[0],
        secret_access_key=keys[1],
        endpoint_url=building.base_url() if account.base_url else None,
        timeouts=building.timeouts,
        max_connections=building.max_connections,
    )
    return client, tuple(key for key in keys if key is not None)


def _ses(building: _Building) -> EmailProvider:
    client, secrets = _ses_client(building)
    return SesProvider(
        client,
        configuration_set=building.account.configuration_set,
        limits=building.limits(),
        max_connections=building.max_connections,
        secrets=secrets,
    )


def _sendgrid(building: _Building) -> EmailProvider:
    return SendGridProvider(
        api_key=building.api_key(),
        template_id=building.account.template_id,
        base_url=building.base_url(SENDGRID_BASE_URL),
        limits=building.limits(),
        timeouts=building.timeouts,
        max_connections=building.max_connections,
    )


def _postmark(building: _Building) -> EmailProvider:
    return PostmarkProvider(
        server_token=building.api_key(),
        message_stream=building.account.message_stream or DEFAULT_MESSAGE_STREAM,
        base_url=building.base_url(POSTMARK_BASE_URL),
        limits=building.limits(),
        timeouts=building.timeouts,
        max_connections=building.max_connections,
    )


def _resend(building: _Building) -> EmailProvider:
    return ResendProvider(
        api_key=building.api_key(),
        base_url=building.base_url(RESEND_BASE_URL),
        limits=building.limits(),
        timeouts=building.timeouts,
        max_connections=building.max_connections,
    )


def _mailgun(building: _Building) -> EmailProvider:
    return MailgunProvider(
        api_key=building.api_key(),
        domain=building.text("domain", building.account.domain),
        base_url=building.base_url(MAILGUN_BASE_URL),
        limits=building.limits(),
        timeouts=building.timeouts,
        max_connections=building.max_connections,
    )


_DOCUMENTED_LIMITS: Mapping[str, ProviderLimits] = {
    "simulator": SIMULATOR_LIMITS,
    "ses": SES_LIMITS,
    "sendgrid": SENDGRID_LIMITS,
    "postmark": POSTMARK_LIMITS,
    "resend": RESEND_LIMITS,
    "mailgun": MAILGUN_LIMITS,
}

_BUILDERS: Mapping[str, Callable[[_Building], EmailProvider]] = {
    "simulator": _simulator,
    "ses": _ses,
    "sendgrid": _sendgrid,
    "postmark": _postmark,
    "resend": _resend,
    "mailgun": _mailgun,
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
    """The adapter of one provider account; opens no connection to the provider.

    SES without keys asks boto3's credential chain, which may ask the instance's metadata service.

    One adapter per account and event loop; close it with ``aclose``.

    Raises:
        ConfigurationError: an unknown name, a missing credential (which variable) or a limit out of range.
    """
    return _BUILDERS[_known(name)](_Building(name, account, timeouts or CallTimeouts(), max_connections))


class AccountProblem(NamedTuple):
    """Why no sender can have this provider and account."""

    field: Literal["provider", "account"]
    text: str


def account_problem(provider: str, account: str) -> AccountProblem | None:
    """What is wrong with the names of a new sender's provider and account; credentials are not asked for."""
    if provider not in provider_names():
        return AccountProblem("provider", f"unknown provider {provider!r}; known: {', '.join(provider_names())}")
    if not is_account_name(account):
        return AccountProblem("account", f"{account!r} cannot name an account: letters, digits, - and _")
    return None


def check_sender(name: str, account: ProviderAccount, address: str) -> SenderCheck:
    """Whether the provider would take mail from the address, as far as it can be asked; sends nothing.

    Raises:
        ConfigurationError: an unknown name, or a missing credential (which variable).
    """
    building = _Building(_known(name), account, CallTimeouts(), 1)
    match name:
        case "ses":
            client, _ = _ses_client(building)
            return check_with_ses(client, address)
        case "sendgrid":
            return check_with_sendgrid(building.base_url(SENDGRID_BASE_URL), building.api_key(), address)
        case "resend":
            return check_with_resend(building.base_url(RESEND_BASE_URL), building.api_key(), address)
        case "mailgun":
            domain = building.text("domain", account.domain)
            return check_with_mailgun(building.base_url(MAILGUN_BASE_URL), building.api_key(), domain, address)
    return cannot_know(name)


def provider_limits(name: str, account: ProviderAccount) -> ProviderLimits:
    """What the provider allows this account, as `build_provider` would give it; needs no credentials.

    Raises:
        ConfigurationError: an unknown name, or a limit out of range.
    """
    return _Building(_known(name), account, CallTimeouts(), MAXIMUM_CONNECTIONS).limits()


def _known(name: str) -> str:
    if name not in _BUILDERS:
        raise ConfigurationError(f"unknown email provider {name!r}; known: {', '.join(provider_names())}")
    return name
