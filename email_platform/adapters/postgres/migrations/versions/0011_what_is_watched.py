"""Count throttles of an account, and index what the metrics count: resting campaigns and alerts that wait.

Revision ID: 0011
Revises: 0010
"""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and two partial indexes; rewrites no row."""
    op.execute("alter table provider_rate add column throttles bigint not null default '0'")
    op.execute("create index ix_campaign_resting on campaign (status) where status in ('draft', 'paused')")
    op.execute("create index ix_campaign_guard_waiting on campaign_guard (campaign_id) where alerted_at is null")
