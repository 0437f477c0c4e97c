"""The guard's memory in PostgreSQL: one row a campaign that was ever stopped.

Invariant: the zero point, the alert and the pause are one transaction, under the campaign's row lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from sqlalchemy import Engine, and_, false, func, or_, select, update
from sqlalchemy.dialects.postgresql import insert

from email_platform.adapters.postgres.campaigns import change_status
from email_platform.adapters.postgres.tables import campaign, campaign_guard
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import CampaignNotFoundError, IllegalTransitionError
from email_platform.runs.guard import Feedback, GuardAlert, WatchedCampaign

SENT_WATCHED_SECONDS = 7 * 86_400.0  # providers try a message for up to three days


def guard_text(campaign_id: int, name: str, status: str, reason: str) -> str:
    """What the guard has to say of a campaign, in one line."""
    return f"campaign {campaign_id} {name!r} is {status}: {reason}"


class PostgresGuardRegister:
    """`email_platform.runs.guard.GuardRegister` over the tables ``campaign`` and ``campaign_guard``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def watched(self) -> Sequence[WatchedCampaign]:
        """Campaigns whose feedback is judged; see the Protocol."""
        guard = campaign_guard.c
        long_ago = func.now() - func.make_interval(0, 0, 0, 0, 0, 0, SENT_WATCHED_SECONDS)
        stands_stopped = and_(campaign.c.status == CampaignStatus.PAUSED, campaign.c.status_reason == guard.reason)
        statement = (
            select(
                campaign.c.id,
                campaign.c.name,
                campaign.c.status,
                func.coalesce(guard.accepted, 0).label("accepted"),
                func.coalesce(guard.bounced, 0).label("bounced"),
                func.coalesce(guard.complained, 0).label("complained"),
                func.coalesce(guard.blocked, 0).label("blocked"),
                func.coalesce(stands_stopped, false()).label("stands_stopped"),
            )
            .outerjoin(campaign_guard, guard.campaign_id == campaign.c.id)
            .where(
                or_(
                    campaign.c.status.in_((CampaignStatus.QUEUED, CampaignStatus.SENDING)),
                    stands_stopped,
                    and_(campaign.c.status == CampaignStatus.SENT, campaign.c.finished_at > long_ago),
                )
            )
            .order_by(campaign.c.id)
        )
        with oltp_transaction(self._engine) as connection:
            return [
                WatchedCampaign(
                    row.id,
                    row.name,
                    CampaignStatus(row.status),
                    Feedback(row.accepted, row.bounced, row.complained, row.blocked),
                    row.stands_stopped,
                )
                for row in connection.execute(statement)
            ]

    def stop(self, campaign_id: int, feedback: Feedback, reason: str) -> None:
        """Move the zero point, note an alert, and pause the campaign; see the Protocol."""
        alert = insert(campaign_guard).values(
            campaign_id=campaign_id,
            accepted=feedback.accepted,
            bounced=feedback.bounced,
            complained=feedback.complained,
            blocked=feedback.blocked,
            reason=reason,
            stopped_at=func.clock_timestamp(),
        )
        new = alert.excluded
        with oltp_transaction(self._engine) as connection:
            with suppress(IllegalTransitionError, CampaignNotFoundError):
                change_status(connection, campaign_id, CampaignStatus.PAUSED, reason)
            connection.execute(
                alert.on_conflict_do_update(
                    index_elements=[campaign_guard.c.campaign_id],
                    set_={
                        "accepted": new.accepted,
                        "bounced": new.bounced,
                        "complained": new.complained,
                        "blocked": new.blocked,
                        "reason": new.reason,
                        "stopped_at": new.stopped_at,
                        "alerted_at": None,
                    },
                )
            )

    def move_zero_point(self, campaign_id: int, feedback: Feedback) -> None:
        """Feedback that came while the campaign was stopped counts too; does nothing where it was resumed meanwhile."""
        guard = campaign_guard.c
        still = select(campaign.c.id).where(
            campaign.c.id == campaign_id,
            campaign.c.status == CampaignStatus.PAUSED,
            campaign.c.status_reason == guard.reason,
        )
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(campaign_guard)
                .where(guard.campaign_id == campaign_id, still.exists())
                .values(
                    accepted=feedback.accepted,
                    bounced=feedback.bounced,
                    complained=feedback.complained,
                    blocked=feedback.blocked,
                )
            )

    def unsent_alerts(self) -> Sequence[GuardAlert]:
        """Alerts that nobody has taken yet, the oldest first."""
        guard = campaign_guard.c
        statement = (
            select(
                guard.campaign_id,
                guard.reason,
                guard.accepted,
                guard.bounced,
                guard.complained,
                guard.blocked,
                guard.stopped_at,
                campaign.c.name,
                campaign.c.status,
            )
            .outerjoin(campaign, campaign.c.id == guard.campaign_id)
            .where(guard.alerted_at.is_(None))
            .order_by(guard.stopped_at)
        )
        with oltp_transaction(self._engine) as connection:
            return [
                GuardAlert(
                    row.campaign_id,
                    guard_text(row.campaign_id, row.name, row.status, row.reason),
                    Feedback(row.accepted, row.bounced, row.complained, row.blocked),
                    row.status or "",
                    row.stopped_at.isoformat(),
                )
                for row in connection.execute(statement)
            ]

    def mark_alerted(self, campaign_id: int) -> None:
        """Record that the campaign's last alert was taken."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(campaign_guard)
                .where(campaign_guard.c.campaign_id == campaign_id)
                .values(alerted_at=func.clock_timestamp())
            )
