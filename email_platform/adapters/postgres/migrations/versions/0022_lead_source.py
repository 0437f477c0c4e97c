"""What is known of the rows that our leads are kept in step with, and up to where their changes are.

Revision ID: 0022
Revises: 0021
"""

from __future__ import annotations

from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


# With its owner's rights, so that no role needs a right to delete leads: it removes leads that came from the source.
_REMOVE = """
create function remove_leads_of_source(its_keys bigint[]) returns integer
language plpgsql security definer set search_path from current as $$
declare
    removed integer;
begin
    delete from lead
    using lead_source_row as held
    where held.source_key = any(its_keys) and lead.own_key = cast(held.source_key as text);
    get diagnostics removed = row_count;
    return removed;
end
$$
"""


def upgrade() -> None:
    """Add two tables and a function; the tables are empty until leads have a source."""
    op.execute(
        """
        create table lead_source_row (
            source_key bigint not null,
            checksum bigint not null,
            hashes jsonb,
            problem text,
            seen_at timestamptz not null default now(),
            constraint pk_lead_source_row primary key (source_key)
        )
        """
    )
    op.execute("create index ix_lead_source_row_problem on lead_source_row (source_key) where problem is not null")
    op.execute(
        """
        create table lead_source_position (
            source text not null,
            position timestamptz not null,
            moved_at timestamptz not null default now(),
            constraint pk_lead_source_position primary key (source)
        )
        """
    )
    op.execute(_REMOVE)
    op.execute("revoke execute on function remove_leads_of_source(bigint[]) from public")
