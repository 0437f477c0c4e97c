"""Leads by a key of their owner's, and how far an import of leads is.

Revision ID: 0010
Revises: 0009
"""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column without a default, an index that is empty at first, and a table."""
    op.execute("alter table lead add column own_key text")
    op.execute("create unique index ix_lead_own_key on lead (own_key) where own_key is not null")
    op.execute(
        """
        create table lead_import (
            fingerprint text not null,
            last_row bigint not null,
            added bigint not null,
            changed bigint not null,
            progress_at timestamptz not null default now(),
            constraint pk_lead_import primary key (fingerprint)
        )
        """
    )
