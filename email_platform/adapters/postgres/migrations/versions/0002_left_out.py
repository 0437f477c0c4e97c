"""Recipients of a call that were suppressed after the audience was frozen, and are in no request.

Revision ID: 0002
Revises: 0001
"""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column without a default: no row is rewritten."""
    op.execute("alter table send_call add column left_out jsonb")


def downgrade() -> None:
    """Forget who was left out of calls without a receipt."""
    op.execute("alter table send_call drop column left_out")
