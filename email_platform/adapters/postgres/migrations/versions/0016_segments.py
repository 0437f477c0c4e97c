"""Conditions with a name, and the condition that an audience was frozen with.

Revision ID: 0016
Revises: 0015
"""

from __future__ import annotations

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table, and a column without a default: older manifests do not know their condition."""
    op.execute(
        """
        create table segment (
            name text not null,
            condition jsonb not null,
            changed_at timestamptz not null default now(),
            constraint pk_segment primary key (name),
            constraint ck_segment_name_known check (name ~ '^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$')
        )
        """
    )
    op.execute("alter table campaign_manifest add column condition jsonb")
