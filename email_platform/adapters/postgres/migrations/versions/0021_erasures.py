"""People who were erased, and the function that gives what stands in the place of their addresses.

Revision ID: 0021
Revises: 0017
"""

from __future__ import annotations

from alembic import op

from email_platform.adapters.postgres.address_functions import erasure_function

revision = "0021"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a function and a table; touches no row."""
    schema: str = op.get_bind().exec_driver_sql("select quote_ident(current_schema())").scalar_one()
    op.execute(erasure_function(schema))
    op.execute(
        """
        create table erasure (
            pseudonym text not null,
            key_id text not null,
            requested_at timestamptz not null default now(),
            address text,
            removed jsonb not null default '{}'::jsonb,
            rewriting jsonb not null default '{}'::jsonb,
            waits_for jsonb not null default '[]'::jsonb,
            finished_at timestamptz,
            constraint pk_erasure primary key (pseudonym)
        )
        """
    )
    op.execute("create index ix_erasure_key_id on erasure (key_id)")
    op.execute("create index ix_erasure_unfinished on erasure (requested_at) where finished_at is null")
