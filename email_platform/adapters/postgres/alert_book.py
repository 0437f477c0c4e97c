"""The alerts' outbox in PostgreSQL.

Invariant: an alert and its messages are written in one transaction, and one process at a time decides what is open, so
two hosts that find the same at once raise it once. A message belongs to the process that claimed it for a minute.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Row,
    and_,
    delete,
    exists,
    false,
    func,
    null,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert

from email_platform.adapters.postgres.tables import alert, alert_beat, alert_delivery
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.alerting.condition import Alert, Condition, Message
from email_platform.alerting.rules import NOTICE_SECONDS
from email_platform.alerting.watch import Finding, Host

_LOCK = 0x616C657274  # "alert"
_CLAIM_SECONDS = 60.0
_MOST_PAUSE_SECONDS = 3600.0
_KEPT_SECONDS = 90 * 86_400.0
_DELETED_AT_ONCE = 1000


class PostgresAlertBook:
    """`email_platform.alerting.watch.AlertBook` over ``alert``, ``alert_delivery`` and ``alert_beat``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def beat(self, host: Host, now: datetime) -> None:
        """Note that this host looks; see the Protocol."""
        row = insert(alert_beat).values(host=host, beat_at=now)
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=[alert_beat.c.host],
                    set_={"beat_at": func.greatest(alert_beat.c.beat_at, row.excluded.beat_at)},
                )
            )

    def reconcile(self, finding: Finding, targets: Collection[str], now: datetime) -> tuple[list[Alert], list[Alert]]:
        """Open what is new, close what is over; see the Protocol."""
        found = {(one.kind, one.subject): one for one in finding.conditions}
        undecided = {(str(kind), subject) for kind, subject in finding.undecided}
        raised: list[Alert] = []
        resolved: list[Alert] = []
        with oltp_transaction(self._engine) as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            is_open = {(row.kind, row.subject): row for row in connection.execute(_open_of(finding))}
            seen: list[int] = []
            for key, row in is_open.items():
                if key in undecided:
                    continue
                if key in found and found[key].occasion == row.occasion:
                    seen.append(row.id)
                else:
                    resolved.append(_resolve(connection, row, now))
            if seen:
                connection.execute(update(alert).where(alert.c.id.in_(seen)).values(seen_at=now))
                for alert_id in seen:  # a target that was configured since hears of what holds
                    _write_messages(connection, alert_id, targets, "raised", now)
            still_open = {(row.kind, row.subject) for row in is_open.values() if row.id in seen} | undecided
            for key, condition in found.items():
                if key not in still_open:
                    raised.append(_raise(connection, condition, targets, now))
        return raised, resolved

    def expire(self, now: datetime) -> list[Alert]:
        """Close what nobody looks at again (notices) after a day without it; forget what ended long ago."""
        quiet = and_(
            alert.c.resolved_at.is_(None),
            alert.c.kind == "provider_notice",
            alert.c.seen_at < now - timedelta(seconds=NOTICE_SECONDS),
        )
        old = (
            select(alert.c.id)
            .where(alert.c.resolved_at < now - timedelta(seconds=_KEPT_SECONDS))
            .order_by(alert.c.resolved_at)
            .limit(_DELETED_AT_ONCE)
        )
        with oltp_transaction(self._engine) as connection:
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK)))
            over = [_resolve(connection, row, now) for row in connection.execute(select(alert).where(quiet)).all()]
            connection.execute(delete(alert).where(alert.c.id.in_(old)))
        return over

    def claim(
        self, targets: Collection[str], limit: int, now: datetime, *, only: Condition | None = None
    ) -> list[Message]:
        """Take messages that are due for a minute; see the Protocol."""
        waiting, beginning = alert_delivery.alias("waiting"), alert_delivery.alias("beginning")
        beginning_waits = exists().where(
            waiting.c.state == "resolved",
            beginning.c.alert_id == waiting.c.alert_id,
            beginning.c.target == waiting.c.target,
            beginning.c.state == "raised",
            beginning.c.taken_at.is_(None),
        )
        due: ColumnElement[bool] = waiting.c.due_at <= now
        if only is not None:
            kind, subject, occasion = only.key
            wanted = select(alert.c.id).where(
                alert.c.kind == kind, alert.c.subject == subject, alert.c.occasion == occasion
            )
            # One without a problem whose time lies ahead is on its way.
            due = and_(waiting.c.alert_id.in_(wanted), or_(due, waiting.c.problem.is_not(None)))
        chosen = (
            select(waiting.c.id)
            .where(waiting.c.taken_at.is_(None), waiting.c.target.in_(list(targets)), due, ~beginning_waits)
            .order_by(waiting.c.id)
            .limit(limit)
            .with_for_update(skip_locked=True)
        )
        with oltp_transaction(self._engine) as connection:
            claimed: Sequence[int] = (
                connection.execute(
                    update(alert_delivery)
                    .where(alert_delivery.c.id.in_(chosen))
                    .values(
                        due_at=now + timedelta(seconds=_CLAIM_SECONDS),
                        attempts=alert_delivery.c.attempts + 1,
                        problem=null(),
                    )
                    .returning(alert_delivery.c.id)
                )
                .scalars()
                .all()
            )
            rows = connection.execute(
                select(
                    alert,
                    alert_delivery.c.id.label("delivery_id"),
                    alert_delivery.c.target,
                    alert_delivery.c.state,
                )
                .join(alert_delivery, alert_delivery.c.alert_id == alert.c.id)
                .where(alert_delivery.c.id.in_(claimed))
                .order_by(alert_delivery.c.id)
            )
            return [Message(row.delivery_id, _alert(row), row.target, row.state) for row in rows]

    def mark_taken(self, message: Message, now: datetime) -> None:
        """The target has it; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(alert_delivery)
                .where(alert_delivery.c.id == message.delivery_id)
                .values(taken_at=now, problem=null())
            )

    def mark_refused(self, message: Message, problem: str, now: datetime) -> None:
        """The target did not take it; see the Protocol."""
        doubled = func.power(2, func.least(alert_delivery.c.attempts, 7) - 1)
        pause = func.least(_MOST_PAUSE_SECONDS, _CLAIM_SECONDS * doubled)
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(alert_delivery)
                .where(alert_delivery.c.id == message.delivery_id, alert_delivery.c.taken_at.is_(None))
                .values(due_at=now + pause * text("interval '1 second'"), problem=problem)
            )

    def listed(self, limit: int, *, with_resolved: bool) -> list[tuple[Alert, int, str | None]]:
        """Alerts, the newest first: with how many of their messages wait, and why the last of these was not taken."""
        waits = and_(alert_delivery.c.alert_id == alert.c.id, alert_delivery.c.taken_at.is_(None))
        waiting = select(func.count()).where(waits).scalar_subquery()
        problem = select(func.max(alert_delivery.c.problem)).where(waits).scalar_subquery()
        statement = select(alert, waiting.label("waiting"), problem.label("problem")).order_by(alert.c.id.desc())
        if not with_resolved:
            statement = statement.where(alert.c.resolved_at.is_(None))
        with oltp_transaction(self._engine) as connection:
            return [(_alert(row), row.waiting, row.problem) for row in connection.execute(statement.limit(limit))]


def _open_of(finding: Finding) -> Any:
    """The open alerts that the finding says something of."""
    looked: ColumnElement[bool] = alert.c.kind.in_(list(finding.kinds))
    if finding.subjects is not None:
        looked = and_(looked, alert.c.subject.in_(list(finding.subjects)))
    keys = [(one.kind, one.subject) for one in finding.conditions]
    named = tuple_(alert.c.kind, alert.c.subject).in_(keys) if keys else false()
    return select(alert).where(alert.c.resolved_at.is_(None), or_(looked, named))


def _raise(connection: Connection, condition: Condition, targets: Collection[str], now: datetime) -> Alert:
    alert_id: int = connection.execute(
        insert(alert)
        .values(
            kind=condition.kind,
            subject=condition.subject,
            occasion=condition.occasion,
            happened=condition.happened,
            meaning=condition.meaning,
            command=condition.command,
            details=condition.details,
            raised_at=now,
            seen_at=now,
        )
        .returning(alert.c.id)
    ).scalar_one()
    _write_messages(connection, alert_id, targets, "raised", now)
    return Alert(alert_id, condition, now)


def _resolve(connection: Connection, row: Row[Any], now: datetime) -> Alert:
    connection.execute(update(alert).where(alert.c.id == row.id).values(resolved_at=now))
    mailed = select(alert_delivery.c.target).where(
        alert_delivery.c.alert_id == row.id, alert_delivery.c.state == "raised"
    )
    _write_messages(connection, row.id, connection.execute(mailed).scalars().all(), "resolved", now)
    return _alert(row, now)


def _write_messages(connection: Connection, alert_id: int, targets: Collection[str], state: str, now: datetime) -> None:
    rows: Sequence[dict[str, Any]] = [
        {"alert_id": alert_id, "target": target, "state": state, "due_at": now} for target in sorted(targets)
    ]
    if rows:
        connection.execute(insert(alert_delivery).values(rows).on_conflict_do_nothing())


def _alert(row: Row[Any], resolved_at: datetime | None = None) -> Alert:
    condition = Condition(
        row.kind, row.subject, row.happened, row.meaning, row.command, row.occasion, dict(row.details)
    )
    return Alert(row.id, condition, row.raised_at, resolved_at or row.resolved_at)
