"""People who were erased, and the function that gives what stands in the place of their addresses.

Revision ID: 0021
Revises: 0019
"""

from __future__ import annotations

from alembic import op

from email_platform.adapters.postgres.address_functions import erasure_function

revision = "0021"
down_revision = "0019"
branch_labels = None
depends_on = None


_ERASE_LEADS = """
create function erase_leads(its_pseudonym text) returns bigint
language plpgsql security definer set search_path from current as $$
declare
    removed bigint;
begin
    delete from lead using erasure
    where erasure.pseudonym = its_pseudonym and email_address_key(lead.email) = erasure.address;
    get diagnostics removed = row_count;
    return removed;
end
$$
"""


def upgrade() -> None:
    """Add two functions and a table; touches no row.

    ``erase_leads`` runs with its owner's rights, so that no role needs a right to delete leads: it deletes those of a
    person whose erasure is under way, and nobody else's.
    """
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
    op.execute(_ERASE_LEADS)
    op.execute("revoke execute on function erase_leads(text) from public")
