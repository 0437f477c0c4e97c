"""A call may have other recipients than the slice of its index, and may follow an attempt of unknown outcome.

Revision ID: 0004
Revises: 0003
"""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the columns; every call so far is the slice of its index. Rewrites no row.

    Whoever is left out of a call has a record without a call instead of a place in ``left_out``, which nobody used
    before this revision.
    """
    op.execute("alter table send_call drop column left_out")
    op.execute("alter table send_call add column offsets integer[]")
    op.execute(
        "alter table send_call add column follows text"
        " constraint ck_send_call_follows_known check (follows in ('deferred', 'in_doubt'))"
    )
    op.execute("alter table send_call add column after_unknown boolean not null default false")


def downgrade() -> None:
    """Refuse: without the offsets nobody could say who was mailed."""
    raise NotImplementedError("the ledger must not forget whose outcome a call has")
