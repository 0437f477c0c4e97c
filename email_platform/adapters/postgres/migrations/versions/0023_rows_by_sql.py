"""Rows that an application writes by SQL alone: a suppression always counts, and a campaign begins at its beginning.

Revision ID: 0023
Revises: 0022
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

# A suppression in another form than the one addresses are compared in would never meet one: it is put into that form.
_SUPPRESSION = """
create function keep_suppression_contract() returns trigger
language plpgsql set search_path from current as $$
begin
    new.address := email_address_key(new.address);
    if new.address = '' then
        raise exception using
            errcode = 'check_violation',
            message = 'suppression.address is empty',
            hint = 'Name the address that is not to be mailed.';
    end if;
    return new;
end
$$
"""

# The tables' owner may put rows back as they were, for example from a backup.
_CAMPAIGN = """
create function keep_new_campaign_contract() returns trigger
language plpgsql set search_path from current as $$
begin
    if new.status in ('draft', 'queued') then
        return new;
    end if;
    if pg_has_role(current_user, (select relowner from pg_class where oid = tg_relid), 'usage') then
        return new;
    end if;
    raise exception using
        errcode = 'check_violation',
        message = format('a new campaign cannot be %s', coalesce(new.status, 'null')),
        hint = 'Insert it as draft, or as queued to have it sent.';
end
$$
"""


def upgrade() -> None:
    """Add two functions and two triggers; checks no row that is there."""
    op.execute(_SUPPRESSION)
    op.execute(
        "create trigger keep_suppression_contract before insert or update of address on suppression"
        " for each row execute function keep_suppression_contract()"
    )
    op.execute(_CAMPAIGN)
    op.execute(
        "create trigger keep_new_campaign_contract before insert on campaign"
        " for each row execute function keep_new_campaign_contract()"
    )
