"""Alerts an operator over HTTP: one POST of JSON with a ``text``, as the webhooks of chat and paging systems take it.

Invariant: the address is a credential and is in no message or log line.
"""

from __future__ import annotations

from collections.abc import Callable

import httpx
from pydantic import SecretStr

from email_platform.errors import PartUnavailableError
from email_platform.runs.guard import GuardAlert

TIMEOUT_SECONDS = 10.0


def alert_webhook(address: SecretStr | None) -> Callable[[GuardAlert], None]:
    """A function that sends one alert; without an address only the log and the campaign's status show it."""
    if address is None:
        return lambda _: None

    def tell(alert: GuardAlert) -> None:
        problem = ""
        try:
            answer = httpx.post(address.get_secret_value(), json=alert.to_json(), timeout=TIMEOUT_SECONDS)
            if not answer.is_success:
                problem = f"answered {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            problem = type(error).__name__
        if problem:  # outside the handler: the original names the address
            raise PartUnavailableError(f"the alert's webhook did not take it: {problem}")

    return tell
