"""Drafts of campaigns that people edit and copy.

Invariant: only a draft is edited, under its row's lock, and only by somebody who has seen its newest version: an edit
never undoes another one unseen.
"""

from __future__ import annotations

from sqlalchemy import Connection, Engine, func, insert, literal, select, update

from email_platform.adapters.postgres.accounts import NewCampaign, campaign_values, find_sender
from email_platform.adapters.postgres.tables import campaign
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import CampaignNotFoundError, CommandRefusedError, ConflictError

_COPIED = (
    "owner_id",
    "sender_id",
    "subject_template",
    "html_template",
    "text_template",
    "mjml",
    "inline_css",
    "condition",
    "on_unknown",
)
_LONGEST_NAME = 500


class PostgresDrafts:
    """Edits and copies campaigns."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def edit(self, campaign_id: int, new: NewCampaign, version: int | None) -> int:
        """Put what a person wrote in the place of what the draft says; returns its new version.

        Args:
            campaign_id: a draft.
            new: all that it is to say; what is left out gets its default.
            version: the one that the edit is made of; may be None for a draft that nobody has edited yet.

        Raises:
            CampaignNotFoundError: no such campaign.
            ConflictError: it is no draft any more, or has been edited by somebody else; says what to do.
            CommandRefusedError: it would get another owner's sender, or one that is not there.
        """
        with oltp_transaction(self._engine) as connection:
            row = connection.execute(
                select(campaign.c.status, campaign.c.version, campaign.c.owner_id)
                .where(campaign.c.id == campaign_id)
                .with_for_update()
            ).one_or_none()
            if row is None:
                raise CampaignNotFoundError(campaign_id)
            if row.status != CampaignStatus.DRAFT:
                raise ConflictError(_no_draft(campaign_id, CampaignStatus(row.status)))
            look = f"see what it says now (email-platform campaign show {campaign_id})"
            if version is None and row.version > 1:
                raise ConflictError(
                    f"campaign {campaign_id} was edited before and is at version {row.version}: {look}, then edit "
                    f"with --version {row.version}"
                )
            if version is not None and version != row.version:
                raise ConflictError(
                    f"campaign {campaign_id} is at version {row.version}, and this is an edit of version {version}: "
                    f"somebody else has edited it; {look}, put both edits together, then use --version {row.version}"
                )
            found = find_sender(connection, new.sender)
            if found.owner_id != row.owner_id:
                raise CommandRefusedError(
                    f"sender {found.id} belongs to another user than campaign {campaign_id}: choose a sender of its "
                    "owner, or create a new campaign for that sender"
                )
            connection.execute(
                update(campaign)
                .where(campaign.c.id == campaign_id)
                .values(version=row.version + 1, estimated_rows=None, **campaign_values(new, found.id))
            )
            return int(row.version) + 1

    def clone(self, campaign_id: int, name: str | None) -> tuple[int, str]:
        """A new draft that says what the campaign says, without its time; returns its id and name.

        Raises:
            CampaignNotFoundError: no such campaign.
        """
        with oltp_transaction(self._engine) as connection:
            return self.clone_in(connection, campaign_id, name)

    @staticmethod
    def clone_in(connection: Connection, campaign_id: int, name: str | None) -> tuple[int, str]:
        """The same in the caller's transaction."""
        new_name = (
            literal(name) if name is not None else func.left(literal("Copy of ") + campaign.c.name, _LONGEST_NAME)
        )
        copied = select(new_name, *(campaign.c[column] for column in _COPIED)).where(campaign.c.id == campaign_id)
        statement = insert(campaign).from_select(["name", *_COPIED], copied).returning(campaign.c.id, campaign.c.name)
        row = connection.execute(statement).one_or_none()
        if row is None:
            raise CampaignNotFoundError(campaign_id)
        return row.id, row.name


def _no_draft(campaign_id: int, status: CampaignStatus) -> str:
    clone = f"email-platform campaign clone {campaign_id}"
    if status in (CampaignStatus.SENT, CampaignStatus.CANCELLED):
        mend = f"make a new draft of it with: {clone}"
    else:
        mend = (
            f"stop it for good with `email-platform campaign cancel {campaign_id}`, then make a new draft of it with: "
            f"{clone}; who got the message already would get the new campaign's as well"
        )
    return f"campaign {campaign_id} is {status}, and only a draft can be edited: {mend}"
