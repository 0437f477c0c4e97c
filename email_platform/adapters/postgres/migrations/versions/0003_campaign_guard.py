"""What the guard on bounces and complaints remembers of the campaigns that it stopped.

Revision ID: 0003
Revises: 0002
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table."""
    op.execute(
        """
        create table campaign_guard (
            campaign_id bigint not null,
            accepted bigint not null,
            bounced bigint not null,
            complained bigint not null,
            reason text not null,
            stopped_at timestamptz not null,
            alerted_at timestamptz,
            constraint pk_campaign_guard primary key (campaign_id)
        )
        """
    )


def downgrade() -> None:
    """Forget what was stopped: campaigns that were resumed may be stopped again by the same numbers."""
    op.execute("drop table campaign_guard")
