"""Options of a campaign's content: MJML, and style sheets written into the elements.

Revision ID: 0006
Revises: 0005
"""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add two columns with a constant default; rewrites no row."""
    op.execute("alter table campaign add column mjml boolean not null default false")
    op.execute("alter table campaign add column inline_css boolean not null default false")


def downgrade() -> None:
    """Forget the options; campaigns that are frozen have nothing left of them to do."""
    op.execute("alter table campaign drop column mjml, drop column inline_css")
