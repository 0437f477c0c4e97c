"""What waits and who waits for it: campaigns, calls, events, loads, and what needs an operator.

Invariant: the figures are those of the metrics (`PostgresFigures`), and the judgement is that of the alerts (`rules`):
a line is wrong exactly where an alert rings, with the alert's words and command.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.exc import SQLAlchemyError

from email_platform.adapters.assembly import open_oltp, open_store, utc_now
from email_platform.adapters.health.asking import Found, Question, Shared
from email_platform.adapters.postgres.alert_book import PostgresAlertBook
from email_platform.adapters.postgres.alert_facts import PlatformAlertFacts
from email_platform.adapters.postgres.engine import check_connection
from email_platform.adapters.postgres.metrics import CallFigures, CampaignFigures, PostgresFigures, StagingFigures
from email_platform.alerting.condition import Alert, Condition, Kind
from email_platform.alerting.rules import Backlog, Limits, conditions_of_backlog, events_condition
from email_platform.domain.figures import duration_words
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX
from email_platform.errors import PartUnavailableError
from email_platform.settings import Settings

SHOWN_ALERTS = 20


@dataclass(frozen=True, slots=True)
class WorkReading:
    """What PostgreSQL knows at one moment.

    Attributes:
        campaigns: by status.
        alerts: the newest of those that are open.
        conditions: what needs an operator now, whether an alert rang for it or not.
    """

    at: datetime
    campaigns: Mapping[str, CampaignFigures]
    calls: CallFigures
    staging: StagingFigures
    backlog: Backlog
    conditions: Sequence[Condition]
    alerts: Sequence[Alert]


def read_work(settings: Settings) -> WorkReading:
    """Ask PostgreSQL, in bounded statements.

    Raises:
        ConfigurationError: it refuses us.
        PartUnavailableError: it does not answer, or not this question.
    """
    now, limits = utc_now(), Limits(settings.alert_late_seconds)
    with open_oltp(settings) as engine, closing(open_store(settings)) as store:
        check_connection(engine)
        figures = PostgresFigures(engine)
        try:
            backlog = PlatformAlertFacts(engine, store).backlog(limits, now)
            return WorkReading(
                at=now,
                campaigns={one.status: one for one in figures.campaigns()},
                calls=figures.calls(),
                staging=figures.staging(),
                backlog=backlog,
                conditions=conditions_of_backlog(backlog, limits, now),
                alerts=[found for found, _, _ in PostgresAlertBook(engine).listed(SHOWN_ALERTS, with_resolved=False)],
            )
        except SQLAlchemyError as problem:  # its words may quote values
            kind = type(getattr(problem, "orig", problem)).__name__
        raise PartUnavailableError(
            f"PostgreSQL does not answer what waits ({kind}): run `email-platform migrate`, and `email-platform roles` "
            "where roles are in use"
        )


def work_questions(settings: Settings, reading: Shared[WorkReading]) -> list[Question]:
    """Queue, stopped campaigns, calls, events, loads and open alerts."""
    lines: dict[str, Callable[[WorkReading], Found]] = {
        "queue": _queue,
        "campaigns": _campaigns,
        "calls": _calls,
        "loads": _loads,
        "open alerts": _alerts,
    }
    postgres = [
        Question(name, lambda line=line: line(reading.get()), "see PostgreSQL", "work")  # type: ignore[misc]
        for name, line in lines.items()
    ]
    return [*postgres, Question("events", lambda: _events(settings), "see S3", "work")]


def _queue(found: WorkReading) -> Found:
    queued = found.campaigns.get("queued")
    if queued is None or not queued.campaigns:
        says = "empty"
    else:
        says = f"{_campaigns_words(queued.campaigns)} queued, {queued.due:,} due"
        if queued.queued_seconds is not None:
            says += f", the oldest for {duration_words(round(queued.queued_seconds))}"
    return _judged(found.conditions, says, "queue_stuck")


def _campaigns(found: WorkReading) -> Found:
    sending = found.campaigns.get("sending")
    counts = [f"{found.campaigns[one].campaigns:,} {one}" for one in ("sending", "paused") if one in found.campaigns]
    says = ", ".join(counts) or "none is at work"
    if sending is not None and sending.silent_seconds is not None:
        says += f"; the quietest moved {duration_words(round(sending.silent_seconds))} ago"
    kinds: tuple[Kind, ...] = (
        *("campaign_silent", "campaign_failed", "campaign_paused"),
        *("account_refused", "campaign_feedback"),
    )
    return _judged(found.conditions, says, *kinds)


def _calls(found: WorkReading) -> Found:
    says = f"{found.calls.open_calls:,} at work, {found.calls.unknown:,} with an unknown outcome"
    return _judged(found.conditions, says, "unknown_calls")


def _loads(found: WorkReading) -> Found:
    staging = found.staging
    says = f"{staging.waiting:,} objects wait for the warehouse, {staging.quarantined:,} set aside"
    if staging.waiting_seconds is not None:
        says += f"; the oldest waits for {duration_words(round(staging.waiting_seconds))}"
    return _judged(found.conditions, says, "loads_late", "object_quarantined")


def _alerts(found: WorkReading) -> Found:
    if not found.alerts:
        return Found("none")
    newest = found.alerts[0].condition
    count = f"{len(found.alerts)}{' or more' if len(found.alerts) == SHOWN_ALERTS else ''}"
    return Found(f"{count}, the newest: {newest.happened}", "email-platform alert list")


def _events(settings: Settings) -> Found:
    now, limits = utc_now(), Limits(settings.alert_late_seconds)
    with closing(open_store(settings)) as store:
        count, oldest_at = store.oldest_of_first(EVENT_INBOX_PREFIX)
    says = "the inbox is empty"
    if oldest_at is not None:
        at_least = "at least " if count >= 1000 else ""
        age = duration_words(round(max(0.0, (now - oldest_at).total_seconds())))
        says = f"{at_least}{count:,} objects in the inbox, the oldest for {age}"
    return _judged(events_condition(oldest_at, limits, now), says, "events_late")


def _judged(conditions: Sequence[Condition], says: str, *kinds: Kind) -> Found:
    """The figures, and where an alert would ring its words and command."""
    wrong = [one for one in conditions if one.kind in kinds]
    if not wrong:
        return Found(says)
    more = f", and {len(wrong) - 1} more" if len(wrong) > 1 else ""
    return Found(f"{says}. {wrong[0].happened}{more}", wrong[0].command)


def _campaigns_words(count: int) -> str:
    return f"{count:,} campaign{'' if count == 1 else 's'}"
