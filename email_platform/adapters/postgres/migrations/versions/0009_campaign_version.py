"""A version of each campaign, so that of two people who edit one the second is refused.

Revision ID: 0009
Revises: 0008
"""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column with a constant default: no row is rewritten."""
    op.execute("alter table campaign add column version integer not null default '1'")
