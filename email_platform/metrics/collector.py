"""One scrape: every figure, asked at that moment, as Prometheus' metric families.

Invariant: a scrape always answers. A part that is away shows as ``email_platform_part_up 0``, a question that fails as
``email_platform_scrape_failed 1``, and the figures of the others are there; a figure that nobody could read is left
out, never shown as 0. No label holds an address or a secret: only names of ours and of accounts, jobs and sensors.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from datetime import datetime

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from email_platform.adapters.assembly import account_rate
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.metrics import AccountFigures, PostgresFigures
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX
from email_platform.errors import ConfigurationError, PartUnavailableError
from email_platform.metrics.dagster_times import DagsterTimes
from email_platform.sending.rate_limit import AccountRate

_logger = logging.getLogger("email_platform.metrics")
_OPEN_STATUSES = ("draft", "queued", "sending", "paused")
_PLAIN_ACCOUNT = re.compile(r"[a-z0-9]+/[A-Za-z0-9_.-]{1,64}", re.ASCII)
PREFIX = "email_platform_"


def account_label(account: str) -> str:
    """The account's name where it is a plain one; of any other, which may hold an address, only a hash."""
    if _PLAIN_ACCOUNT.fullmatch(account):
        return account
    return f"odd-{hashlib.sha256(account.encode()).hexdigest()[:12]}"


class PlatformCollector(Collector):
    """Asks at each scrape; scrapes wait for each other, so that many who ask cost the database no more than one.

    Args:
        figures: the OLTP database.
        store: the bucket.
        dagster: the newest reading of Dagster's storage; None where this process has no DAGSTER_HOME.
        variables: where accounts' rates are read from.
        clock: UTC-aware.

    Length: one method a group of figures, each a list of names and what they say.
    """

    def __init__(
        self,
        figures: PostgresFigures,
        store: S3ObjectStore,
        dagster: Callable[[], DagsterTimes] | None,
        variables: Mapping[str, str],
        clock: Callable[[], datetime],
    ) -> None:
        self._figures = figures
        self._store = store
        self._dagster = dagster
        self._variables = variables
        self._clock = clock
        self._lock: AbstractContextManager[bool] = threading.Lock()

    def describe(self) -> Iterable[Metric]:
        """Nothing: a registry that asked would scrape when the process starts."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Every figure that can be read now."""
        with self._lock:
            yield from self._collect()

    def _collect(self) -> Iterator[Metric]:
        part_up = GaugeMetricFamily(f"{PREFIX}part_up", "Whether the part answered every question.", labels=["part"])
        failed = GaugeMetricFamily(
            f"{PREFIX}scrape_failed", "1 where this group of figures could not be read.", labels=["group"]
        )
        groups: tuple[tuple[str, tuple[tuple[str, Callable[[], list[Metric]]], ...]], ...] = (
            (
                "postgres",
                (
                    ("campaigns", self._campaigns),
                    ("accounts", self._accounts),
                    ("calls", self._calls),
                    ("staging", self._staging),
                    ("alerts", self._alerts),
                ),
            ),
            ("s3", (("inbox", self._inbox),)),
            *((("dagster", (("dagster", self._of_dagster),)),) if self._dagster is not None else ()),
        )
        for part, questions in groups:
            is_up = True
            for group, question in questions:
                found = self._asked(group, question) if is_up else None
                failed.add_metric([group], 0.0 if isinstance(found, list) else 1.0)
                is_up = is_up and not isinstance(found, PartUnavailableError)
                if isinstance(found, list):
                    yield from found
            part_up.add_metric([part], float(is_up))
            if part == "postgres":
                yield _gauge("up", "Whether the OLTP database answers.", float(is_up))
        yield part_up
        yield failed

    def _asked(self, group: str, question: Callable[[], list[Metric]]) -> list[Metric] | Exception:
        try:
            return question()
        except Exception as failure:  # whatever is wrong with one group, the others are worth reading
            # The text of an error may carry a row; its kind and the group are enough to look further.
            _logger.warning("the figures of %s could not be read: %s", group, type(failure).__name__)
            is_away = group == "dagster" or isinstance(failure, PartUnavailableError)
            return PartUnavailableError(group) if is_away else failure

    def _campaigns(self) -> list[Metric]:
        found = {one.status: one for one in self._figures.campaigns()}
        campaigns = GaugeMetricFamily(
            f"{PREFIX}campaigns", "Campaigns that are not over, by status.", labels=["status"]
        )
        for status in _OPEN_STATUSES:
            campaigns.add_metric([status], found[status].campaigns if status in found else 0)
        queued, sending = found.get("queued"), found.get("sending")
        return [
            campaigns,
            _gauge(
                "oldest_queued_seconds",
                "Since the longest waiting campaign was due; 0 where none waits.",
                (queued.queued_seconds if queued else None) or 0.0,
            ),
            _gauge(
                "longest_silence_seconds",
                "Since the last sign of life of the quietest campaign in sending; 0 where none is.",
                (sending.silent_seconds if sending else None) or 0.0,
            ),
        ]

    def _accounts(self) -> list[Metric]:
        def family(name: str, says: str, labels: tuple[str, ...] = ()) -> GaugeMetricFamily:
            return GaugeMetricFamily(f"{PREFIX}account_{name}", says, labels=["account", *labels])

        limit = family("limit_per_second", "The account's configured rate.", ("unit",))
        rate = family("rate_per_second", "What is left of the limit after throttling, now.", ("unit",))
        share = family("share", "Share of the configured rate after throttling, 0 to 1.")
        booked = family("booked_ahead_seconds", "How far ahead of now calls are booked.")
        blocked = family("blocked_seconds", "How long no call may start because the provider asked for it.")
        active = family("active_campaigns", "Campaigns that asked for a place in the last 5 s.")
        wrong = family("rate_unreadable", "1 where the variables of the account's rate are wrong.")
        throttles = CounterMetricFamily(
            f"{PREFIX}account_throttles", "Calls that the provider throttled.", labels=["account"]
        )
        for one in self._figures.accounts():
            label, configured = account_label(one.account), self._rate_of(one)
            known = configured or AccountRate()
            now = min(1.0, one.share + known.recovery_per_second * one.share_seconds)
            share.add_metric([label], now)
            booked.add_metric([label], one.booked_seconds)
            blocked.add_metric([label], one.blocked_seconds)
            active.add_metric([label], one.campaigns)
            throttles.add_metric([label], one.throttles)
            wrong.add_metric([label], float(configured is None))
            for unit, value in (("recipients", known.recipients_per_second), ("calls", known.calls_per_second)):
                if value is not None:
                    limit.add_metric([label, unit], value)
                    rate.add_metric([label, unit], value * now)
        return [limit, rate, share, booked, blocked, active, wrong, throttles]

    def _rate_of(self, one: AccountFigures) -> AccountRate | None:
        provider, _, account = one.account.partition("/")
        try:
            return account_rate(provider, account, self._variables)
        except ConfigurationError:
            return None

    def _calls(self) -> list[Metric]:
        found = self._figures.calls()
        return [
            _gauge("calls_open", "Provider calls that a live process waits for.", found.open_calls),
            _gauge("calls_unknown", "Provider calls whose outcome nobody knows yet.", found.unknown),
        ]

    def _staging(self) -> list[Metric]:
        found = self._figures.staging()
        return [
            _gauge("staged_objects_waiting", "Staged objects that the warehouse does not hold.", found.waiting),
            _gauge("staged_objects_quarantined", "Staged objects that could not be loaded.", found.quarantined),
            _gauge(
                "oldest_staged_seconds",
                "Since the longest waiting staged object was staged; 0 where none waits.",
                found.waiting_seconds or 0.0,
            ),
        ]

    def _alerts(self) -> list[Metric]:
        return [_gauge("alerts_waiting", "Alerts of stopped campaigns not taken yet.", self._figures.alerts_waiting())]

    def _inbox(self) -> list[Metric]:
        count, oldest_at = self._store.oldest_of_first(EVENT_INBOX_PREFIX)
        age_seconds = (self._clock() - oldest_at).total_seconds() if oldest_at else 0.0
        return [
            _gauge("inbox_objects", "Objects in the inbox of events; 1000 means at least that many.", count),
            _gauge(
                "oldest_inbox_seconds",
                "Since the oldest of the inbox's first 1000 objects was stored; 0 where it is empty.",
                max(0.0, age_seconds),
            ),
        ]

    def _of_dagster(self) -> list[Metric]:
        now = self._clock().timestamp()
        assert self._dagster is not None
        times = self._dagster()
        says = "When it last succeeded, in seconds since 1970; absent where it never did."
        jobs = GaugeMetricFamily(f"{PREFIX}job_last_success_timestamp_seconds", says, labels=["job"])
        sensors = GaugeMetricFamily(f"{PREFIX}sensor_last_success_timestamp_seconds", says, labels=["sensor"])
        runs = GaugeMetricFamily(f"{PREFIX}runs", "Dagster's runs that are not over, by status.", labels=["status"])
        for family, values in ((jobs, times.jobs), (sensors, times.sensors), (runs, times.runs)):
            for name, value in values.items():
                family.add_metric([name], value)
        age: list[Metric] = []
        if times.reports_as_of is not None:
            text = "Since the newest refresh of the reports that succeeded began."
            age = [_gauge("reports_age_seconds", text, max(0.0, now - times.reports_as_of))]
        return [jobs, sensors, runs, *age]


def _gauge(name: str, says: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(PREFIX + name, says, value=value)
