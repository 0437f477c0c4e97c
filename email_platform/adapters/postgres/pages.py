"""Lists in pages, by key: a page costs the same however many rows come before it.

Invariant: whoever sees one user's rows only gets no row of another's, whatever page is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Engine, Select, select

from email_platform.adapters.postgres.tables import app_user, campaign, sender, suppression
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import CampaignStatus

Row = Mapping[str, Any]


class PostgresPages:
    """Lists campaigns, senders, users and suppressions."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def campaigns(
        self,
        limit: int,
        before_id: int | None,
        owner_id: int | None,
        status: CampaignStatus | None,
        name: str = "",
    ) -> Sequence[Row]:
        """Campaigns, the newest first.

        Args:
            limit: at most so many.
            before_id: only older ones.
            owner_id: only this user's.
            status: only those with this status.
            name: only those whose name has this in it, in upper or lower case.
        """
        columns = campaign.c
        statement = select(
            columns.id.label("campaign_id"),
            columns.name,
            columns.status,
            columns.status_reason,
            columns.version,
            columns.owner_id,
            columns.sender_id,
            columns.created_at,
            columns.scheduled_at,
            columns.queued_at,
            columns.started_at,
            columns.finished_at,
        ).order_by(columns.id.desc())
        conditions = [columns.owner_id == owner_id] if owner_id is not None else []
        if status is not None:
            conditions.append(columns.status == status)
        if before_id is not None:
            conditions.append(columns.id < before_id)
        if name:
            conditions.append(columns.name.icontains(name, autoescape=True))
        return self._read(statement, conditions, limit)

    def senders(self, limit: int, after_id: int, owner_id: int | None) -> Sequence[Row]:
        """Senders, by id."""
        columns = sender.c
        statement = (
            select(
                columns.id.label("sender_id"),
                columns.owner_id,
                app_user.c.email.label("owner_email"),
                columns.from_address,
                columns.from_name,
                columns.reply_to,
                columns.provider,
                columns.provider_account,
                columns.created_at,
            )
            .join(app_user, app_user.c.id == columns.owner_id)
            .order_by(columns.id)
        )
        conditions = [columns.id > after_id]
        if owner_id is not None:
            conditions.append(columns.owner_id == owner_id)
        return self._read(statement, conditions, limit)

    def users(self, limit: int, after_id: int, only_id: int | None) -> Sequence[Row]:
        """Users, by id."""
        columns = app_user.c
        statement = select(columns.id.label("user_id"), columns.email, columns.name, columns.created_at).order_by(
            columns.id
        )
        conditions = [columns.id > after_id]
        if only_id is not None:
            conditions.append(columns.id == only_id)
        return self._read(statement, conditions, limit)

    def suppressions(
        self, limit: int, before_id: int | None, owner_id: int | None, address: str | None
    ) -> Sequence[Row]:
        """Suppressions, the newest first; of one user only those that are for his senders.

        Args:
            limit: at most so many.
            before_id: only older ones.
            owner_id: of the senders.
            address: as `normalised_address` gives it.
        """
        columns = suppression.c
        statement = select(
            columns.id.label("suppression_id"),
            columns.address,
            columns.sender_id,
            columns.reason,
            columns.source,
            columns.created_at,
        ).order_by(columns.id.desc())
        conditions: list[ColumnElement[bool]] = []
        if before_id is not None:
            conditions.append(columns.id < before_id)
        if address is not None:
            conditions.append(columns.address == address)
        if owner_id is not None:
            conditions.append(columns.sender_id.in_(select(sender.c.id).where(sender.c.owner_id == owner_id)))
        return self._read(statement, conditions, limit)

    def sender_owner(self, sender_id: int) -> int | None:
        """Whose sender this is; None where there is none."""
        with oltp_transaction(self._engine) as connection:
            statement = select(sender.c.owner_id).where(sender.c.id == sender_id)
            owner: int | None = connection.execute(statement).scalar_one_or_none()
            return owner

    def _read(self, statement: Select[Any], conditions: Sequence[ColumnElement[bool]], limit: int) -> Sequence[Row]:
        with oltp_transaction(self._engine) as connection:
            return [dict(row) for row in connection.execute(statement.where(*conditions).limit(limit)).mappings()]
