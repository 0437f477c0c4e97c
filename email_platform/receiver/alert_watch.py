"""Looks for what needs an operator, once a minute, in a thread of the receiver.

The receiver is the host because it is the one process of the platform that runs all the time, has the settings, the
database and the bucket, and owes nothing to Dagster: where Dagster's daemon is dead, somebody must say so. The other
way round a sensor sees that no receiver looks any more. Several receivers may look; the outbox keeps one alert.

Invariant: a look never holds up a request, and nothing that goes wrong in it ends the receiver.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from email_platform.adapters.assembly import open_alerts
from email_platform.alerting.condition import Alert, Condition, Message
from email_platform.alerting.watch import AlertParts, look
from email_platform.errors import EmailPlatformError, PartUnavailableError
from email_platform.settings import Settings

_logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 60.0
DATABASE_AWAY_LOOKS = 3
_STOP_WITHIN_SECONDS = 5.0
_DATABASE_AWAY = Condition(
    "part_away",
    "PostgreSQL",
    "PostgreSQL has not answered the receiver's last looks",
    "Nobody is mailed and no event is taken into account; events are stored, and opt-outs by link are refused.",
    "email-platform doctor",
)


class AlertWatch:
    """Looks, and remembers how often PostgreSQL, where the outbox is, did not answer.

    An outage of PostgreSQL is the one alert that cannot be in the outbox. It is sent directly, once by each receiver
    process, and so is its end; a target that is away just then misses it.
    """

    def __init__(self, parts: AlertParts) -> None:
        self._parts = parts
        self._failures = 0
        self._rang: Alert | None = None

    def look(self) -> None:
        """One look; raises nothing that the platform raises on purpose."""
        try:
            report = look(self._parts, "receiver")
        except PartUnavailableError as away:
            self._failures += 1
            _logger.warning("no look for alerts: %s", away)
            if self._failures >= DATABASE_AWAY_LOOKS and self._rang is None:
                self._rang = Alert(0, _DATABASE_AWAY, self._parts.clock())
                self._send(Message(0, self._rang, "", "raised"))
            return
        except EmailPlatformError as problem:
            _logger.error("no look for alerts: %s", problem)
            return
        self._failures = 0
        if self._rang is not None:
            self._send(Message(0, self._rang, "", "resolved"))
            self._rang = None
        if report.refused:
            _logger.warning("%d messages of alerts were not taken; they are tried again", report.refused)

    def _send(self, message: Message) -> None:
        _logger.error("alert: %s", message.text)
        for name, send in self._parts.targets.items():
            try:
                send(message)
            except PartUnavailableError as problem:
                _logger.warning("%s: %s", name, problem)


@contextmanager
def watching(settings: Settings, interval_seconds: float = INTERVAL_SECONDS) -> Iterator[None]:
    """Look once now and then at every interval, in a thread, until the block is left."""
    stop = threading.Event()
    with open_alerts(settings) as parts:
        watch = AlertWatch(parts)
        thread = threading.Thread(
            target=_look_until, args=(watch.look, stop, interval_seconds), name="alert-watch", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(_STOP_WITHIN_SECONDS)


def _look_until(look_once: Callable[[], None], stop: threading.Event, interval_seconds: float) -> None:
    while True:
        try:
            look_once()
        except Exception as error:  # a fault of ours; its words may hold anything
            _logger.error("a look for alerts failed: %s", type(error).__name__)
        if stop.wait(interval_seconds):
            return
