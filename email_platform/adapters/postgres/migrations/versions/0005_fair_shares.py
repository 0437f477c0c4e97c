"""Fair shares of a provider account between campaigns, and attempts of a campaign that came to nothing.

Revision ID: 0005
Revises: 0004
"""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a table and two columns; rewrites no row."""
    op.execute(
        """
        create table provider_rate_flow (
            account text not null,
            campaign_id bigint not null,
            due_at timestamptz not null,
            seen_at timestamptz not null,
            constraint pk_provider_rate_flow primary key (account, campaign_id)
        )
        """
    )
    op.execute("alter table campaign add column fruitless_attempts integer not null default '0'")
    op.execute("alter table campaign add column attempt_mark bigint not null default '0'")


def downgrade() -> None:
    """Forget the shares and the fruitless attempts; both start again."""
    op.execute("drop table provider_rate_flow")
    op.execute("alter table campaign drop column fruitless_attempts, drop column attempt_mark")
