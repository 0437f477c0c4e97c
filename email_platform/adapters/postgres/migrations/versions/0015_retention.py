"""Mark campaigns whose ledger is archived, and keep leases of work that one process at a time does.

Revision ID: 0015
Revises: 0014
"""

from __future__ import annotations

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


_REMOVE = """
create function remove_archived_ledger(its_campaign_id bigint, most integer) returns integer
language plpgsql security definer set search_path from current as $$
declare
    removed integer;
begin
    -- Locked, so that a restore and a removal of one campaign come one after the other.
    perform from campaign_manifest where campaign_id = its_campaign_id and archived_at is not null for update;
    if not found then
        return 0;
    end if;
    delete from send_call
    where ctid = any(array(select ctid from send_call where campaign_id = its_campaign_id limit most));
    get diagnostics removed = row_count;
    if removed < most then
        delete from chunk where campaign_id = its_campaign_id;
    end if;
    return removed;
end
$$
"""


def upgrade() -> None:
    """Add three columns with no default, a partial index, a table and a function; rewrites no row.

    The function runs with its owner's rights, so that no role needs a right to delete from the ledger: it deletes what
    the bucket has, and nothing else.
    """
    op.execute("alter table campaign_manifest add column archived_at timestamptz")
    op.execute("alter table campaign_manifest add column archived_totals jsonb")
    op.execute("alter table campaign_manifest add column ledger_removed_at timestamptz")
    op.execute(
        "create index ix_campaign_manifest_half_removed on campaign_manifest (campaign_id) "
        "where archived_at is not null and ledger_removed_at is null"
    )
    op.execute(
        "create table work_lease (name text not null, holder text not null, expires_at timestamptz not null, "
        "constraint pk_work_lease primary key (name))"
    )
    op.execute(_REMOVE)
    op.execute("revoke execute on function remove_archived_ledger(bigint, integer) from public")
