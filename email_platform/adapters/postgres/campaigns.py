"""Campaigns in PostgreSQL.

Invariant: a status changes under the row's lock, after `check_transition` on the status read under it; a campaign
becomes sent only where, under that lock, every chunk of it is finished.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Connection,
    Engine,
    Row,
    Select,
    any_,
    case,
    func,
    literal,
    or_,
    select,
    update,
)

from email_platform.adapters.postgres.tables import campaign, chunk, sender
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import (
    LONGEST_PAUSE,
    Campaign,
    CampaignContent,
    CampaignStatus,
    Sender,
    check_transition,
)
from email_platform.errors import AccountingError, CampaignNotFoundError

_STARTED = {CampaignStatus.SENDING}
_ENDED = (CampaignStatus.SENT, CampaignStatus.CANCELLED)  # nothing more will be sent by itself
_FINISHED = {CampaignStatus.SENT, CampaignStatus.CANCELLED, CampaignStatus.FAILED}


def change_status(connection: Connection, campaign_id: int, wanted: CampaignStatus, reason: str | None) -> None:
    """Make one legal change of status in the caller's transaction, under the row's lock.

    Raises:
        CampaignNotFoundError, IllegalTransitionError, AccountingError: nothing was changed.
    """
    current: str | None = connection.execute(
        select(campaign.c.status).where(campaign.c.id == campaign_id).with_for_update()
    ).scalar_one_or_none()
    if current is None:
        raise CampaignNotFoundError(campaign_id)
    values: dict[str, Any] = {"status_reason": reason}
    if current != wanted:
        check_transition(campaign_id, CampaignStatus(current), wanted)
        if wanted is CampaignStatus.SENT:
            _require_finished_chunks(connection, campaign_id)
        values["status"] = wanted
        if wanted is CampaignStatus.QUEUED:
            values |= {"queued_at": func.now(), "finished_at": None, "fruitless_attempts": 0}
            if current != CampaignStatus.DRAFT:
                values["attempt"] = campaign.c.attempt + 1  # a new run key: the old one was used
        if wanted in _STARTED:
            values["started_at"] = func.coalesce(campaign.c.started_at, func.now())
        if wanted in _FINISHED:
            values["finished_at"] = func.now()
    if wanted in _STARTED:
        values["progress_at"] = func.clock_timestamp()
    connection.execute(update(campaign).where(campaign.c.id == campaign_id).values(**values))


def _require_finished_chunks(connection: Connection, campaign_id: int) -> None:
    """A fenced process may unfinish a chunk at any moment, but then it holds a lock on the campaign's row as well."""
    unfinished = select(func.count()).where(chunk.c.campaign_id == campaign_id, chunk.c.finished_at.is_(None))
    if chunks := connection.execute(unfinished).scalar_one():
        raise AccountingError(f"campaign {campaign_id} is not sent: {chunks} of its chunks are not finished")


class PostgresCampaignStore:
    """`email_platform.domain.campaigns.CampaignStore` over the tables ``campaign`` and ``sender``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def get(self, campaign_id: int) -> Campaign:
        """The campaign with its sender; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            return self._read(connection, campaign_id)

    def newest(self, limit: int) -> Sequence[Campaign]:
        """Campaigns of any status, the newest first."""
        statement = self._campaigns().order_by(campaign.c.id.desc()).limit(limit)
        with oltp_transaction(self._engine) as connection:
            return [self._campaign(row) for row in connection.execute(statement)]

    def due(self, limit: int) -> Sequence[Campaign]:
        """Queued campaigns whose time has come, the longest waiting first."""
        statement = (
            self._campaigns()
            .where(
                campaign.c.status == CampaignStatus.QUEUED,
                or_(campaign.c.scheduled_at.is_(None), campaign.c.scheduled_at <= func.now()),
            )
            .order_by(func.coalesce(campaign.c.scheduled_at, campaign.c.queued_at, campaign.c.created_at))
            .limit(limit)
        )
        with oltp_transaction(self._engine) as connection:
            return [self._campaign(row) for row in connection.execute(statement)]

    def change_status(self, campaign_id: int, wanted: CampaignStatus, reason: str | None = None) -> Campaign:
        """Make one legal change of status under the row's lock; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            change_status(connection, campaign_id, wanted, reason)
            return self._read(connection, campaign_id)

    def note_progress(self, campaign_id: int) -> None:
        """Say that a run is working on the campaign; nothing happens where the row is gone."""
        with oltp_transaction(self._engine) as connection:
            connection.execute(
                update(campaign).where(campaign.c.id == campaign_id).values(progress_at=func.clock_timestamp())
            )

    def silent(self, silent_seconds: float) -> Sequence[Campaign]:
        """Campaigns that should be worked on, without a sign of life from any run; see the Protocol.

        A chunk's lease is such a sign: it is renewed while its calls are made.
        """
        pauses = func.least(func.power(2, campaign.c.fruitless_attempts), LONGEST_PAUSE)
        long_ago = func.clock_timestamp() - func.make_interval(0, 0, 0, 0, 0, 0, silent_seconds * pauses)
        is_queued = campaign.c.status == CampaignStatus.QUEUED
        last_sign_at = func.greatest(
            func.coalesce(campaign.c.progress_at, campaign.c.created_at),
            case((is_queued, func.greatest(campaign.c.queued_at, campaign.c.scheduled_at))),
        )
        leased = select(chunk.c.campaign_id).where(
            chunk.c.campaign_id == campaign.c.id,
            chunk.c.lease_holder.is_not(None),
            chunk.c.lease_expires_at > long_ago,
        )
        statement = (
            self._campaigns()
            .where(
                is_queued | (campaign.c.status == CampaignStatus.SENDING),
                last_sign_at < long_ago,
                ~leased.exists(),
            )
            .order_by(campaign.c.id)
        )
        with oltp_transaction(self._engine) as connection:
            return [self._campaign(row) for row in connection.execute(statement)]

    def ended_before(self, moment: datetime, campaign_ids: Sequence[int]) -> Sequence[int]:
        """Which of these campaigns were sent or cancelled before the moment, in order of their ids."""
        statement = (
            select(campaign.c.id)
            .where(
                campaign.c.id == any_(literal(list(campaign_ids), ARRAY(BigInteger))),
                campaign.c.status.in_(_ENDED),
                campaign.c.finished_at < moment,
            )
            .order_by(campaign.c.id)
        )
        with oltp_transaction(self._engine) as connection:
            return list(connection.execute(statement).scalars())

    def begin_attempt(self, campaign_id: int, attempt: int, mark: int) -> bool:
        """Count a new attempt if the present one is still ``attempt - 1``; see the Protocol."""
        with oltp_transaction(self._engine) as connection:
            return bool(
                connection.execute(
                    update(campaign)
                    .where(
                        campaign.c.id == campaign_id,
                        campaign.c.attempt == attempt - 1,
                        campaign.c.status.in_((CampaignStatus.QUEUED, CampaignStatus.SENDING)),
                    )
                    .values(
                        attempt=attempt,
                        progress_at=func.clock_timestamp(),
                        fruitless_attempts=case(
                            (campaign.c.attempt_mark == mark, campaign.c.fruitless_attempts + 1), else_=0
                        ),
                        attempt_mark=mark,
                    )
                ).rowcount
            )

    @staticmethod
    def _campaigns() -> Select[Any]:
        return select(
            campaign,
            sender.c.from_address,
            sender.c.from_name,
            sender.c.reply_to,
            sender.c.provider,
            sender.c.provider_account,
            sender.c.owner_id.label("sender_owner_id"),
        ).join(sender, sender.c.id == campaign.c.sender_id)

    def _read(self, connection: Connection, campaign_id: int) -> Campaign:
        row = connection.execute(self._campaigns().where(campaign.c.id == campaign_id)).one_or_none()
        if row is None:
            raise CampaignNotFoundError(campaign_id)
        return self._campaign(row)

    @staticmethod
    def _campaign(row: Row[Any]) -> Campaign:
        return Campaign(
            campaign_id=row.id,
            owner_id=row.owner_id,
            name=row.name,
            sender=Sender(
                sender_id=row.sender_id,
                owner_id=row.sender_owner_id,
                from_address=row.from_address,
                from_name=row.from_name,
                reply_to=row.reply_to,
                provider=row.provider,
                provider_account=row.provider_account,
            ),
            content=CampaignContent(
                row.subject_template, row.html_template, row.text_template, row.mjml, row.inline_css
            ),
            condition=row.condition,
            status=CampaignStatus(row.status),
            status_reason=row.status_reason,
            scheduled_at=row.scheduled_at,
            attempt=row.attempt,
            on_unknown=row.on_unknown,
            created_at=row.created_at,
            finished_at=row.finished_at,
            fruitless_attempts=row.fruitless_attempts,
        )
