"""What PostgreSQL and the bucket show that may need an operator: a fixed number of bounded statements.

Invariant: no statement's cost grows with the leads or the calls that were made; each reads a partial index of what is
open, waiting or stopped, or the end of an index. Campaigns that have rung already come first, so that a limit never
makes an alert look as if it were over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Select, and_, exists, func, or_, select
from sqlalchemy.sql import ColumnElement

from email_platform.adapters.object_store import S3ObjectStore
from email_platform.adapters.postgres.due import due_since
from email_platform.adapters.postgres.guard import SENT_WATCHED_SECONDS, guard_text
from email_platform.adapters.postgres.ledger_rows import is_unknown
from email_platform.adapters.postgres.tables import (
    alert,
    alert_beat,
    campaign,
    campaign_guard,
    send_call,
    staged_object,
)
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.alerting.rules import (
    CAMPAIGNS_OF_A_KIND,
    OPERATORS_REASON,
    Backlog,
    GuardedCampaign,
    Limits,
    StoppedCampaign,
    UnknownCalls,
)
from email_platform.domain.odd_rows import LATEST
from email_platform.domain.storage_layout import EVENT_INBOX_PREFIX


class PlatformAlertFacts:
    """`email_platform.alerting.watch.AlertFacts` over PostgreSQL and the bucket."""

    def __init__(self, engine: Engine, store: S3ObjectStore) -> None:
        self._engine = engine
        self._store = store

    def backlog(self, limits: Limits, now: datetime) -> Backlog:
        """What PostgreSQL shows; see the Protocol."""
        late_at = now - timedelta(seconds=limits.late_seconds)
        with oltp_transaction(self._engine) as connection:
            return Backlog(
                stopped=_stopped(connection),
                guarded=_guarded(connection, now),
                unknown=_unknown(connection, late_at),
                silent=_silent(connection, late_at),
                queued=_count(connection, campaign.c.id, _is_due_and_late(late_at)),
                has_moved=_has_moved(connection, late_at),
                unloaded=_count(
                    connection,
                    staged_object.c.key,
                    and_(
                        staged_object.c.loaded_sha256.is_distinct_from(staged_object.c.content_sha256),
                        staged_object.c.quarantined_reason.is_(None),
                        staged_object.c.staged_at < late_at,
                    ),
                ),
                quarantined=_count(
                    connection,
                    staged_object.c.key,
                    and_(
                        staged_object.c.loaded_sha256.is_distinct_from(staged_object.c.content_sha256),
                        staged_object.c.quarantined_reason.is_not(None),
                    ),
                ),
                beats={row.host: row.beat_at for row in connection.execute(select(alert_beat))},
            )

    def first_event_at(self) -> datetime | None:
        """When the oldest object in the inbox was written; see the Protocol."""
        return self._store.oldest_of_first(EVENT_INBOX_PREFIX)[1]

    def attempts_at_work(self, campaign_ids: Collection[int]) -> Mapping[int, int]:
        """The present attempt of those that are queued or sending; see the Protocol."""
        statement = select(campaign.c.id, campaign.c.attempt).where(
            campaign.c.id.in_(list(campaign_ids)), campaign.c.status.in_(("queued", "sending"))
        )
        with oltp_transaction(self._engine) as connection:
            return {row.id: row.attempt for row in connection.execute(statement)}

    def oldest_change_after(self, refreshed_at: datetime | None) -> datetime | None:
        """The first change after a refresh of the reports began; None where there is none. Reads three indexes."""
        columns = (staged_object.c.loaded_at, campaign.c.started_at, campaign.c.finished_at)
        oldest = [
            select(func.min(column))
            .where(column < LATEST, *([column > refreshed_at] if refreshed_at is not None else []))
            .scalar_subquery()
            for column in columns
        ]
        with oltp_transaction(self._engine) as connection:
            found: datetime | None = connection.execute(select(func.least(*oldest))).scalar_one()
        return found


def _rung_first(statement: Select[Any], campaign_id: ColumnElement[Any], *kinds: str) -> Select[Any]:
    """The statement's campaigns, those with an open alert before others, and the newest before the older."""
    has_rung = exists().where(
        alert.c.resolved_at.is_(None), alert.c.kind.in_(kinds), alert.c.subject == func.concat("campaign ", campaign_id)
    )
    return statement.order_by(has_rung.desc(), campaign_id.desc()).limit(CAMPAIGNS_OF_A_KIND)


def _stopped(connection: Connection) -> Sequence[StoppedCampaign]:
    reason = func.coalesce(campaign.c.status_reason, "")
    found: list[StoppedCampaign] = []
    for status, kinds in (("paused", ("campaign_paused", "account_refused")), ("failed", ("campaign_failed",))):
        statement = (
            select(campaign.c.id, campaign.c.name, campaign.c.status, reason.label("reason"), campaign.c.attempt)
            .outerjoin(campaign_guard, campaign_guard.c.campaign_id == campaign.c.id)
            .where(
                campaign.c.status == status,
                campaign.c.status.in_(("paused", "failed")),  # the words of the partial index
                campaign.c.status_reason.is_distinct_from(campaign_guard.c.reason),
                ~reason.startswith(OPERATORS_REASON, autoescape=True),
            )
        )
        found += [
            StoppedCampaign(row.id, row.name, row.status, row.reason, row.attempt)
            for row in connection.execute(_rung_first(statement, campaign.c.id, *kinds))
        ]
    return found


def _guarded(connection: Connection, now: datetime) -> Sequence[GuardedCampaign]:
    guard = campaign_guard.c
    counts = ("accepted", "bounced", "complained", "blocked")
    statement = (
        select(
            campaign.c.id, campaign.c.name, campaign.c.status, guard.reason, guard.stopped_at, *map(guard.get, counts)
        )
        .join(campaign_guard, guard.campaign_id == campaign.c.id)
        .where(
            or_(
                and_(campaign.c.status == "paused", campaign.c.status_reason == guard.reason),
                and_(
                    campaign.c.status == "sent",
                    guard.stopped_at > now - timedelta(seconds=SENT_WATCHED_SECONDS),
                    guard.stopped_at < LATEST,
                ),
            )
        )
    )
    return [
        GuardedCampaign(
            row.id,
            row.status,
            guard_text(row.id, row.name, row.status, row.reason),
            row.stopped_at.isoformat(),
            {one: getattr(row, one) for one in counts},
        )
        for row in connection.execute(_rung_first(statement, campaign.c.id, "campaign_feedback"))
    ]


def _unknown(connection: Connection, late_at: datetime) -> Sequence[UnknownCalls]:
    calls = func.count().label("calls")
    recipients = func.sum(send_call.c.recipient_count).label("recipients")
    statement = (
        select(send_call.c.campaign_id, calls, recipients)
        .where(is_unknown(), send_call.c.intent_at < late_at)
        .group_by(send_call.c.campaign_id)
    )
    return [
        UnknownCalls(row.campaign_id, row.calls, row.recipients)
        for row in connection.execute(_rung_first(statement, send_call.c.campaign_id, "unknown_calls"))
    ]


def _silent(connection: Connection, late_at: datetime) -> Sequence[int]:
    statement = select(campaign.c.id).where(
        campaign.c.status == "sending",
        campaign.c.status.in_(("queued", "sending")),
        func.coalesce(campaign.c.progress_at, campaign.c.started_at) < late_at,
    )
    return list(connection.execute(_rung_first(statement, campaign.c.id, "campaign_silent")).scalars())


def _is_due_and_late(late_at: datetime) -> ColumnElement[bool]:
    """Queued, and its time came so long ago."""
    return and_(campaign.c.status == "queued", campaign.c.status.in_(("queued", "sending")), due_since() < late_at)


def _has_moved(connection: Connection, late_at: datetime) -> bool:
    moved = or_(
        *(
            exists(campaign.c.id).where(column > late_at, column < LATEST)
            for column in (campaign.c.started_at, campaign.c.finished_at)
        ),
        exists(campaign.c.id).where(campaign.c.status.in_(("queued", "sending")), campaign.c.progress_at > late_at),
    )
    return bool(connection.execute(select(moved)).scalar_one())


def _count(connection: Connection, column: ColumnElement[Any], condition: ColumnElement[bool]) -> int:
    """How many rows, up to a bound: nobody needs to know whether a thousand are late or a million."""
    some = select(column).where(condition).limit(1000).subquery()
    return int(connection.execute(select(func.count()).select_from(some)).scalar_one())
