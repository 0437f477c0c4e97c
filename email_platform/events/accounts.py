"""Which provider accounts may send us events, and with which proof.

Invariant: an account without its complete webhook settings does not exist for the receiver; no secret is in
a repr or an error.

Several values, separated by blanks, are all valid: while a secret is replaced, give the new one and then the old one.

| provider | variable (EMAIL_PLATFORM_<PROVIDER>[_<ACCOUNT>]_...) |
| --- | --- |
| simulator, resend | WEBHOOK_SECRET: ``whsec_`` and base64 (the simulator: any text without blanks) |
| sendgrid | WEBHOOK_PUBLIC_KEY: the verification key |
| postmark | WEBHOOK_CREDENTIALS: user:password |
| mailgun | WEBHOOK_SIGNING_KEY |
| ses | WEBHOOK_TOPIC_ARNS: separated by commas or blanks |
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping

from email_platform.domain.ports import Clock
from email_platform.errors import ConfigurationError
from email_platform.events.verification import (
    AnyOfVerifier,
    BasicAuthVerifier,
    Fetch,
    MailgunVerifier,
    SendGridVerifier,
    SnsVerifier,
    StandardWebhooksVerifier,
    Verifier,
)
from email_platform.settings.names import variable_of
from email_platform.settings.provider_accounts import AccountVariables, account_variable, is_account_name

_SETTING_OF: Mapping[str, str] = {
    "simulator": "webhook_secret",
    "resend": "webhook_secret",
    "sendgrid": "webhook_public_key",
    "postmark": "webhook_credentials",
    "mailgun": "webhook_signing_key",
    "ses": "webhook_topic_arns",
}
# A public key in PEM holds blanks of its own.
_ONE_VALUE = re.compile(r"-----BEGIN [A-Z ]+-----.*?-----END [A-Z ]+-----|\S+", re.DOTALL)
SIMULATOR_SECRET_VARIABLE = variable_of("provider_webhook_secret")  # the simulator's own


def webhook_variable(provider: str, account: str) -> str:
    """The environment variable with the account's proof, named as its other settings are.

    Raises:
        KeyError: no such provider.
    """
    return account_variable(provider, account, _SETTING_OF[provider])


def standard_webhooks_key(secret: str) -> bytes:
    """The key of a secret: ``whsec_`` and base64 as the standard says, or any other text as its UTF-8.

    Raises:
        ConfigurationError: not base64 behind its prefix, or empty; the secret is not repeated.
    """
    if not secret.startswith("whsec_"):
        key = secret.encode()
    else:
        encoded = secret.removeprefix("whsec_")
        try:
            key = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        except binascii.Error:
            raise ConfigurationError("a webhook secret must be base64 behind whsec_") from None
    if not key:
        raise ConfigurationError("a webhook secret is empty")
    return key


class WebhookAccounts:
    """The accounts that may send events, each with its verifier; built once per account.

    Args:
        variables: the environment.
        fetch: see `SnsVerifier`.
        clock: the present time.
    """

    def __init__(self, variables: Mapping[str, str], fetch: Fetch, clock: Clock) -> None:
        self._variables = variables
        self._fetch = fetch
        self._clock = clock
        self._verifiers: dict[tuple[str, str], Verifier] = {}

    def __repr__(self) -> str:
        return "WebhookAccounts()"

    def find(self, provider: str, account: str) -> Verifier | None:
        """The account's verifier, or None for a provider or account that may not send.

        Raises:
            ConfigurationError: the account's setting is wrong; names the variable.
        """
        known = self._verifiers.get((provider, account))
        if known is not None:
            return known
        if provider not in _SETTING_OF or not is_account_name(account):
            return None
        found = AccountVariables(provider, account, self._variables)
        value = found.text(_SETTING_OF[provider])
        if value is None:
            return None
        try:
            verifier = self._verifier(provider, value)
        except ConfigurationError as error:
            raise ConfigurationError(f"{found.name(_SETTING_OF[provider])}: {error}") from None
        # Bounded by the variables: only accounts with a setting get here.
        self._verifiers[(provider, account)] = verifier
        return verifier

    def _verifier(self, provider: str, value: str) -> Verifier:
        if provider == "ses":  # no secret, but topics
            return SnsVerifier(tuple(value.replace(",", " ").split()), self._fetch, self._clock)
        verifiers = [self._build(provider, one) for one in _ONE_VALUE.findall(value)]
        return verifiers[0] if len(verifiers) == 1 else AnyOfVerifier(verifiers)

    def _build(self, provider: str, value: str) -> Verifier:
        match provider:
            case "sendgrid":
                return SendGridVerifier(value, self._clock)
            case "postmark":
                return BasicAuthVerifier(value)
            case "mailgun":
                return MailgunVerifier(value, self._clock)
            case _:
                return StandardWebhooksVerifier(standard_webhooks_key(value))
