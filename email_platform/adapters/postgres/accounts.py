"""Users, senders and new campaigns: the rows that people make before anything is sent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, insert, select
from sqlalchemy.dialects.postgresql import insert as insert_or_nothing

from email_platform.adapters.postgres.audience import normalised_address_sql
from email_platform.adapters.postgres.people_relations import SENDERS, USERS, require_own
from email_platform.adapters.postgres.tables import app_user, campaign, sender
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.addresses import normalised_address
from email_platform.domain.campaigns import CampaignContent, OnUnknown, Sender
from email_platform.errors import CommandRefusedError

_SENDER_FIELDS = ("owner_id", "from_address", "from_name", "reply_to", "provider", "provider_account")


@dataclass(frozen=True, slots=True)
class User:
    """One row of ``app_user``."""

    user_id: int
    email: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class OwnedSender:
    """A sender, with its owner's address."""

    sender: Sender
    owner_email: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewSender:
    """A sender to be made, of the user with this address."""

    owner_email: str
    from_address: str
    from_name: str
    reply_to: str | None = None
    provider: str = "simulator"
    provider_account: str = "default"


@dataclass(frozen=True, slots=True)
class NewCampaign:
    """A campaign to be made, as a draft.

    Attributes:
        sender: the id of a sender, or the address that it sends from.
        condition: as parsed JSON, valid.
    """

    name: str
    sender: int | str
    content: CampaignContent
    condition: object
    on_unknown: OnUnknown = "hold"
    scheduled_at: datetime | None = None


class PostgresAccounts:
    """Makes and lists users and senders, and makes campaigns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def add_user(self, email: str, name: str) -> User:
        """`add_user` in a transaction of its own."""
        with oltp_transaction(self._engine) as connection:
            return add_user(connection, email, name)

    def users(self) -> Sequence[User]:
        """Every user, by id."""
        with oltp_transaction(self._engine) as connection:
            rows = connection.execute(select(app_user).order_by(app_user.c.id)).all()
        return [User(row.id, row.email, row.name, row.created_at) for row in rows]

    def add_sender(self, new: NewSender) -> OwnedSender:
        """`add_sender` in a transaction of its own."""
        with oltp_transaction(self._engine) as connection:
            return add_sender(connection, new)

    def senders(self, only_id: int | None = None) -> Sequence[OwnedSender]:
        """Every sender, by id; or the one with this id, where there is one."""
        statement = (
            select(sender, app_user.c.email.label("owner_email"))
            .join(app_user, app_user.c.id == sender.c.owner_id)
            .order_by(sender.c.id)
        )
        if only_id is not None:
            statement = statement.where(sender.c.id == only_id)
        with oltp_transaction(self._engine) as connection:
            rows = connection.execute(statement).mappings().all()
        return [
            OwnedSender(
                Sender(sender_id=row["id"], **{name: row[name] for name in _SENDER_FIELDS}),
                row["owner_email"],
                row["created_at"],
            )
            for row in rows
        ]

    def add_campaign(self, new: NewCampaign) -> int:
        """Make a draft, owned by its sender's owner; returns its id.

        Raises:
            CommandRefusedError: no such sender, or several that send from this address.
        """
        with oltp_transaction(self._engine) as connection:
            return add_campaign(connection, new)


def add_user(connection: Connection, email: str, name: str) -> User:
    """Make a user, in the caller's transaction.

    Raises:
        CommandRefusedError: there is one with this address.
    """
    require_own(connection, USERS)
    statement = (
        insert_or_nothing(app_user)
        .values(email=email, name=name)
        .on_conflict_do_nothing(index_elements=[app_user.c.email])
        .returning(app_user)
    )
    row = connection.execute(statement).one_or_none()
    if row is None:
        raise CommandRefusedError(f"there is a user with the address {email} already")
    return User(row.id, row.email, row.name, row.created_at)


def add_sender(connection: Connection, new: NewSender) -> OwnedSender:
    """Make a sender, in the caller's transaction.

    Raises:
        CommandRefusedError: there is no such user, or the same sender exists.
    """
    require_own(connection, SENDERS)
    owner_id: int | None = connection.execute(
        select(app_user.c.id).where(app_user.c.email == new.owner_email)
    ).scalar_one_or_none()
    if owner_id is None:
        raise CommandRefusedError(
            f"there is no user {new.owner_email}; make one with: email-platform user add {new.owner_email} --name NAME"
        )
    values: dict[str, Any] = {
        "from_address": new.from_address,
        "from_name": new.from_name,
        "reply_to": new.reply_to,
        "provider": new.provider,
        "provider_account": new.provider_account,
    }
    same = [sender.c[name] == values[name] for name in ("from_address", "provider", "provider_account")]
    known: int | None = connection.execute(select(sender.c.id).where(*same).limit(1)).scalar_one_or_none()
    if known is not None:
        through = f"{new.provider}/{new.provider_account}"
        raise CommandRefusedError(f"sender {known} sends from {new.from_address} through {through} already")
    made = insert(sender).values(owner_id=owner_id, **values).returning(sender.c.id, sender.c.created_at)
    row = connection.execute(made).one()
    return OwnedSender(Sender(sender_id=row.id, owner_id=owner_id, **values), new.owner_email, row.created_at)


def add_campaign(connection: Connection, new: NewCampaign) -> int:
    """`PostgresAccounts.add_campaign` in the caller's transaction."""
    found = find_sender(connection, new.sender)
    values = campaign_values(new, found.id)
    statement = insert(campaign).values(owner_id=found.owner_id, **values).returning(campaign.c.id)
    return int(connection.execute(statement).scalar_one())


def find_sender(connection: Connection, wanted: int | str) -> Row[Any]:
    """The sender with this id, or the only one that sends from this address: its ``id`` and ``owner_id``.

    Raises:
        CommandRefusedError: no such sender, or several that send from this address.
    """
    matches = (
        sender.c.id == wanted
        if isinstance(wanted, int)
        else normalised_address_sql(sender.c.from_address) == normalised_address(wanted)
    )
    found = connection.execute(select(sender.c.id, sender.c.owner_id).where(matches).order_by(sender.c.id)).all()
    if not found:
        raise CommandRefusedError(
            f"there is no sender {wanted}; `email-platform sender list` shows them, `sender add` makes one"
        )
    if len(found) > 1:
        ids = ", ".join(str(row.id) for row in found)
        raise CommandRefusedError(f"several senders send from {wanted}: {ids}; give the id")
    return found[0]


def campaign_values(new: NewCampaign, sender_id: int) -> dict[str, Any]:
    """The columns of ``campaign`` that a person writes."""
    content = new.content
    return {
        "sender_id": sender_id,
        "name": new.name,
        "subject_template": content.subject_template,
        "html_template": content.html_template,
        "text_template": content.text_template,
        "mjml": content.mjml,
        "inline_css": content.inline_css,
        "condition": new.condition,
        "on_unknown": new.on_unknown,
        "scheduled_at": new.scheduled_at,
    }
