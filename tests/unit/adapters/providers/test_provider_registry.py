"""A provider is built complete or refused with the variable that is missing."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from email_platform.adapters.providers import (
    ProviderAccount,
    account_from_variables,
    build_provider,
    provider_limits,
    provider_names,
)
from email_platform.adapters.providers.http_transport import open_transport
from email_platform.errors import ConfigurationError

_COMPLETE: Mapping[str, Mapping[str, str]] = {
    "simulator": {
        "EMAIL_PLATFORM_SIMULATOR_API_KEY": "k",
        "EMAIL_PLATFORM_SIMULATOR_BASE_URL": "http://127.0.0.1:1",
    },
    "ses": {
        "EMAIL_PLATFORM_SES_REGION": "eu-west-1",
        "EMAIL_PLATFORM_SES_ACCESS_KEY_ID": "a",
        "EMAIL_PLATFORM_SES_SECRET_ACCESS_KEY": "k",
    },
    "sendgrid": {"EMAIL_PLATFORM_SENDGRID_API_KEY": "k"},
    "postmark": {"EMAIL_PLATFORM_POSTMARK_API_KEY": "k"},
    "resend": {"EMAIL_PLATFORM_RESEND_API_KEY": "k"},
    "mailgun": {"EMAIL_PLATFORM_MAILGUN_API_KEY": "k", "EMAIL_PLATFORM_MAILGUN_DOMAIN": "mg.example.com"},
}


def _build(provider: str, variables: Mapping[str, str], account: str = "default") -> int:
    """Build, close and return the recipients per call."""
    settings = account_from_variables(provider, account, variables)
    built = build_provider(provider, settings)
    asyncio.run(built.aclose())
    assert built.name == provider
    assert built.limits == provider_limits(provider, settings)
    return built.limits.recipients_per_call


def test_every_known_provider_is_covered_here() -> None:
    assert set(_COMPLETE) == set(provider_names())


@pytest.mark.parametrize("provider", provider_names())
def test_complete_variables_build_the_provider(provider: str) -> None:
    assert _build(provider, _COMPLETE[provider]) >= 1


@pytest.mark.parametrize(
    ("provider", "variable"),
    [(provider, variable) for provider, variables in _COMPLETE.items() for variable in variables],
)
def test_a_missing_variable_is_named(provider: str, variable: str) -> None:
    variables = {name: value for name, value in _COMPLETE[provider].items() if name != variable}
    with pytest.raises(ConfigurationError, match=variable):
        _build(provider, variables)


def test_another_account_has_variables_of_its_own() -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_RESEND_NORTH_EAST_API_KEY"):
        _build("resend", _COMPLETE["resend"], account="north-east")
    assert _build("resend", {"EMAIL_PLATFORM_RESEND_NORTH_EAST_API_KEY": "k"}, account="north-east") == 100


def test_the_simulators_key_may_come_from_its_own_variable() -> None:
    variables = {
        "EMAIL_PLATFORM_PROVIDER_API_KEY": "k",
        "EMAIL_PLATFORM_SIMULATOR_BASE_URL": "http://127.0.0.1:1",
    }
    assert _build("simulator", variables) == 50


def test_an_unknown_provider_is_refused_with_the_known_ones() -> None:
    known = ", ".join(provider_names())
    with pytest.raises(ConfigurationError, match=f"unknown email provider 'no-such'; known: {known}$"):
        build_provider("no-such", account_from_variables("no-such", "default", {}))


def test_a_lower_limit_of_recipients_is_kept_and_a_higher_one_refused() -> None:
    variable = "EMAIL_PLATFORM_SES_RECIPIENTS_PER_CALL"
    assert _build("ses", {**_COMPLETE["ses"], variable: "20"}) == 20
    for wrong in ("51", "0", "many"):
        with pytest.raises(ConfigurationError, match=variable):
            _build("ses", {**_COMPLETE["ses"], variable: wrong})


def test_limits_are_known_without_credentials() -> None:
    assert provider_limits("sendgrid", ProviderAccount()).recipients_per_call == 1000
    assert provider_limits("sendgrid", ProviderAccount(template_id="d-1")).recipients_per_call == 1000
    with pytest.raises(ConfigurationError, match="unknown"):
        provider_limits("sparkpost", ProviderAccount())


def test_idempotency_can_be_switched_off_but_not_claimed() -> None:
    off = provider_limits("simulator", ProviderAccount(idempotency="off"))
    assert (off.honours_idempotency_keys, off.idempotency_seconds) == (False, 0)
    assert provider_limits("simulator", ProviderAccount(idempotency="on")).honours_idempotency_keys
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_SES_IDEMPOTENCY must be off, not 'on'"):
        provider_limits("ses", ProviderAccount(idempotency="on"))
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_RESEND_IDEMPOTENCY must be off or on, not 'no'"):
        provider_limits("resend", ProviderAccount(idempotency="no"))


@pytest.mark.parametrize(
    "url", ["http://api.example.com", "ftp://x", "api.example.com", "https://u:p@x", "https://x/?a=1", "https://"]
)
def test_a_base_url_that_would_leak_the_key_or_cannot_work_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_RESEND_BASE_URL") as caught:
        _build("resend", {**_COMPLETE["resend"], "EMAIL_PLATFORM_RESEND_BASE_URL": url})
    assert "u:p" not in str(caught.value)


@pytest.mark.parametrize("account", ["", "9a", "a b", "a\n", "é"])
def test_an_account_name_that_no_variable_can_carry_is_refused(account: str) -> None:
    with pytest.raises(ConfigurationError, match="provider account"):
        account_from_variables("resend", account, {})


def test_no_secret_is_in_an_accounts_repr() -> None:
    variables = dict.fromkeys(_COMPLETE["ses"], "s3cret")
    account = account_from_variables("ses", "default", variables)
    assert repr(account).count("s3cret") == 1, "the region only"


@pytest.mark.parametrize("connections", [0, 51])
def test_a_process_has_one_to_fifty_connections(connections: int) -> None:
    with pytest.raises(ConfigurationError, match="1 to 50"):
        open_transport(max_connections=connections)
