"""Rows that an application writes by SQL alone: suppressions that count, campaigns and senders that can be.

Revision ID: 0024
Revises: 0023
"""

from __future__ import annotations

from alembic import op

revision = "0024"
down_revision = "0023"
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

# As `email_platform.adapters.providers.provider_names` was at this revision; a test compares the two.
PROVIDERS = ("mailgun", "postmark", "resend", "sendgrid", "ses", "simulator")

# The tables' owner may put rows back as they were, for example from a backup.
_IS_OWNER = "pg_has_role(current_user, (select relowner from pg_class where oid = tg_relid), 'usage')"

_CAMPAIGN = f"""
create function keep_new_campaign_contract() returns trigger
language plpgsql set search_path from current as $$
begin
    if {_IS_OWNER} then
        return new;
    end if;
    if tg_op = 'INSERT' and not new.status in ('draft', 'queued') then
        raise exception using
            errcode = 'check_violation',
            message = format('a new campaign cannot be %s', new.status),
            hint = 'Insert it as draft, or as queued to have it sent.';
    end if;
    if jsonb_typeof(new.condition) <> 'object' then
        raise exception using
            errcode = 'check_violation',
            message = format('campaign.condition is JSON of the kind %s', jsonb_typeof(new.condition)),
            hint = 'A condition is an object, such as {{"all": []}} for everybody: docs/conditions.md.';
    end if;
    return new;
end
$$
"""

_SENDER = f"""
create function keep_sender_contract() returns trigger
language plpgsql set search_path from current as $$
begin
    if {_IS_OWNER} then
        return new;
    end if;
    if email_address_key(new.from_address) = '' then
        raise exception using
            errcode = 'check_violation',
            message = 'sender.from_address is empty',
            hint = 'Name the address that mail is from.';
    end if;
    if not new.provider in ({", ".join(f"'{one}'" for one in PROVIDERS)}) then
        raise exception using
            errcode = 'check_violation',
            message = 'sender.provider is no provider that is known',
            hint = 'It is one of: {", ".join(PROVIDERS)}.';
    end if;
    return new;
end
$$
"""


def upgrade() -> None:
    """Add three functions and their triggers; checks no row that is there."""
    op.execute(_SUPPRESSION)
    op.execute(
        "create trigger keep_suppression_contract before insert or update of address on suppression"
        " for each row execute function keep_suppression_contract()"
    )
    op.execute(_CAMPAIGN)
    op.execute(
        "create trigger keep_new_campaign_contract before insert or update of condition on campaign"
        " for each row execute function keep_new_campaign_contract()"
    )
    op.execute(_SENDER)
    op.execute(
        "create trigger keep_sender_contract before insert or update of from_address, provider on sender"
        " for each row execute function keep_sender_contract()"
    )
