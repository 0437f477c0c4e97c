"""One equality of addresses in the database, the opt-outs of every lead by address, and blocks that stop a campaign.

Revision ID: 0008
Revises: 0007
"""

from __future__ import annotations

from alembic import op

from email_platform.adapters.postgres.address_functions import address_functions

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add three functions, an index over the leads who opted out, and a column; rewrites suppressed addresses."""
    schema: str = op.get_bind().exec_driver_sql("select quote_ident(current_schema())").scalar_one()
    for statement in address_functions(schema):
        op.execute(statement)
    op.execute(
        "create index ix_lead_unsubscribed_address on lead (email_address_key(email)) where unsubscribed_at is not null"
    )
    # Addresses that an import took in another form than the one they are compared in now.
    op.execute(
        """
        with other_form as (
            delete from suppression where address <> email_address_key(address)
            returning email_address_key(address) as address, sender_id, reason, source, created_at
        )
        insert into suppression (address, sender_id, reason, source, created_at)
        select distinct on (address, sender_id) address, sender_id, reason, source, created_at
        from other_form order by address, sender_id, created_at
        on conflict (address, sender_id) do nothing
        """
    )
    op.execute("alter table campaign_guard add column blocked bigint not null default '0'")
