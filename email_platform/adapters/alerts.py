"""Where alerts go: one webhook of our own form, and whatever the library ``apprise`` reaches.

The webhook gets one POST of JSON with a ``text``, as chat and paging systems take it, and with the alert's id and state
for programs. Apprise's URLs (https://github.com/caronc/apprise/wiki) reach Slack, Teams, PagerDuty, mail and the rest.

Invariant: an address is a credential and is in no message, name, or log line. A target's name is its scheme and its
place among those of the same scheme, so a credential that is replaced leaves the name, and what was sent, as they are.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import httpx
from pydantic import SecretStr

from email_platform.alerting.condition import Message
from email_platform.alerting.watch import Send
from email_platform.errors import ConfigurationError, PartUnavailableError

if TYPE_CHECKING:
    from apprise import NotifyBase

TIMEOUT_SECONDS = 10.0
WEBHOOK = "webhook"
_URLS_VARIABLE = "EMAIL_PLATFORM_ALERT_URLS"


def alert_targets(webhook: SecretStr | None, urls: SecretStr | None) -> Mapping[str, Send]:
    """How each configured target is sent to, by its name; empty where only the log and `alert list` show alerts.

    A URL that apprise does not know takes no message and says so: a wrong target must not keep the receiver from
    starting, or events from being loaded. `check_alert_urls` finds it before.

    Args:
        webhook: where our own JSON goes.
        urls: apprise URLs with blanks between them.
    """
    targets: dict[str, Send] = {}
    if webhook is not None:
        targets[WEBHOOK] = partial(_post, webhook)
    schemes: Counter[str] = Counter()
    for place, url in enumerate(_each(urls), 1):
        scheme = url.get_secret_value().partition(":")[0].lower()
        schemes[scheme] += 1
        targets[f"{scheme}-{schemes[scheme]}"] = partial(_notify, url, place)
    return targets


def check_alert_urls(urls: SecretStr | None) -> None:
    """Whether apprise knows a service for each of the URLs; asks nobody.

    Raises:
        ConfigurationError: names the place of one that it does not know.
    """
    for place, url in enumerate(_each(urls), 1):
        _service(url, place)


def _each(urls: SecretStr | None) -> list[SecretStr]:
    return [SecretStr(one) for one in urls.get_secret_value().split()] if urls is not None else []


def _post(address: SecretStr, message: Message) -> None:
    problem = ""
    try:
        answer = httpx.post(address.get_secret_value(), json=message.to_json(), timeout=TIMEOUT_SECONDS)
        if not answer.is_success:
            problem = f"answered {answer.status_code}"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        problem = type(error).__name__
    if problem:  # outside the handler: the original names the address
        raise PartUnavailableError(f"the alert's webhook did not take it: {problem}")


def _service(url: SecretStr, place: int) -> NotifyBase:
    # Imported here: its hundred plugins take a second, which processes without such a target need not wait for.
    from apprise import Apprise

    # Its lines name recipients and hosts; the alert says what matters of a failure without them.
    logging.getLogger("apprise").setLevel(logging.CRITICAL + 1)
    service = Apprise.instantiate(url.get_secret_value())
    if service is None:
        raise ConfigurationError(
            f"{_URLS_VARIABLE}: number {place} is no URL that apprise knows, or lacks a part; "
            "see https://github.com/caronc/apprise/wiki for its form"
        )
    return service


def _notify(url: SecretStr, place: int, message: Message) -> None:
    from apprise import Apprise, NotifyType

    try:
        service = _service(url, place)
    except ConfigurationError as wrong:
        raise PartUnavailableError(str(wrong)) from wrong
    apprise = Apprise()
    apprise.add(service)
    kind = NotifyType.SUCCESS if message.state == "resolved" else NotifyType.FAILURE
    problem = ""
    try:
        if not apprise.notify(body=message.text, title=message.title, notify_type=kind):
            problem = "the service refused it or did not answer"
    except Exception as error:  # a plugin may raise anything, with the address in its words
        problem = type(error).__name__
    if problem:
        raise PartUnavailableError(f"{service.service_name} did not take the alert: {problem}")
