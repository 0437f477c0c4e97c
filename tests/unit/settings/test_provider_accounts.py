"""One account is read the same way by whoever asks for it."""

from __future__ import annotations

import pytest

from email_platform.adapters.assembly import account_rate, utc_now
from email_platform.adapters.providers import account_from_variables
from email_platform.errors import ConfigurationError
from email_platform.events.accounts import WebhookAccounts, webhook_variable
from email_platform.settings.provider_accounts import AccountVariables, account_variable

SECRET = "very-secret-value"


async def no_fetch(url: str) -> bytes:
    raise AssertionError(url)


@pytest.mark.parametrize("account", ["default", "acme", "north-east"])
def test_sending_rates_and_webhooks_find_an_account_under_the_same_names(account: str) -> None:
    variables = {
        account_variable("postmark", account, "api_key"): SECRET,
        account_variable("postmark", account, "calls_per_second"): "7",
        webhook_variable("postmark", account): f"hook:{SECRET}",
    }
    key = account_from_variables("postmark", account, variables).api_key
    assert key is not None
    assert key.get_secret_value() == SECRET
    assert account_rate("postmark", account, variables).calls_per_second == 7
    assert WebhookAccounts(variables, no_fetch, utc_now).find("postmark", account) is not None
    assert account_from_variables("postmark", "other", variables).api_key is None
    assert WebhookAccounts(variables, no_fetch, utc_now).find("postmark", "other") is None


def test_the_simulator_s_own_variables_serve_its_default_account_only() -> None:
    variables = {"EMAIL_PLATFORM_PROVIDER_API_KEY": "k", "EMAIL_PLATFORM_PROVIDER_WEBHOOK_SECRET": "w"}
    simulator = AccountVariables("simulator", "default", variables)
    assert (simulator.text("api_key"), simulator.text("webhook_secret")) == ("k", "w")
    assert AccountVariables("simulator", "b", variables).text("api_key") is None
    assert AccountVariables("resend", "default", variables).text("webhook_secret") is None


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "many"])
def test_a_rate_that_is_no_positive_number_is_refused_by_its_variable(value: str) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_SES_A_CALLS_PER_SECOND must be a positive number"):
        AccountVariables("ses", "a", {"EMAIL_PLATFORM_SES_A_CALLS_PER_SECOND": value}).rate("calls_per_second")


@pytest.mark.parametrize("value", ["1.5", "-1", "٣", "many"])
def test_a_count_that_is_no_whole_number_is_refused_by_its_variable(value: str) -> None:
    with pytest.raises(ConfigurationError, match="EMAIL_PLATFORM_SES_RECIPIENTS_PER_CALL must be a whole number"):
        account_from_variables("ses", "default", {"EMAIL_PLATFORM_SES_RECIPIENTS_PER_CALL": value})


def test_no_variable_is_in_an_account_s_repr() -> None:
    assert SECRET not in repr(AccountVariables("ses", "default", {"EMAIL_PLATFORM_SES_SECRET_ACCESS_KEY": SECRET}))
