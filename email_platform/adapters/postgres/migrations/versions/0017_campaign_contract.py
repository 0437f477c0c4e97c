"""A campaign's change of status by SQL alone: legal, complete, or refused with the reason (docs/sql_contract.md).

Revision ID: 0017
Revises: 0016
"""

from __future__ import annotations

from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None

# As `email_platform.domain.campaigns.LEGAL_TRANSITIONS` was at this revision; a test compares the two.
TRANSITIONS: dict[str, tuple[str, ...]] = {
    "draft": ("queued", "cancelled"),
    "queued": ("draft", "sending", "paused", "cancelled", "failed"),
    "sending": ("paused", "sent", "cancelled", "failed"),
    "paused": ("queued", "cancelled"),
    "failed": ("queued", "cancelled"),
    "sent": ("queued",),
    "cancelled": (),
}


def keeping_function() -> str:
    """The trigger's function: refuses what the state machine forbids, and completes a row that is queued or ends."""
    cases = "\n            ".join(
        f"when '{current}' then cast(array[{', '.join(f'{chr(39)}{one}{chr(39)}' for one in wanted)}] as text[])"
        for current, wanted in TRANSITIONS.items()
    )
    return f"""
create function keep_campaign_contract() returns trigger language plpgsql as $$
declare
    allowed text[];
begin
    if new.attempt < old.attempt or new.version < old.version then
        raise exception using
            errcode = 'check_violation',
            message = format('campaign %s: attempt and version never fall', old.id),
            hint = 'The platform raises them; leave both columns out of your statement.';
    end if;
    if new.status is not distinct from old.status then
        return new;
    end if;
    allowed := case old.status
            {cases}
        end;
    if new.status is null or not new.status = any (allowed) then
        raise exception using
            errcode = 'check_violation',
            message = format('campaign %s cannot go from %s to %s', old.id, old.status, coalesce(new.status, 'null')),
            hint = case
                when cardinality(allowed) = 0 then format('%s is final: make a new campaign.', old.status)
                else format('From %s it may go to: %s.', old.status, array_to_string(allowed, ', '))
            end;
    end if;
    if new.status = 'queued' then
        if new.queued_at is not distinct from old.queued_at then
            new.queued_at := now();
        end if;
        if old.status <> 'draft' and new.attempt = old.attempt then
            new.attempt := old.attempt + 1;
        end if;
        if new.status_reason is not distinct from old.status_reason then
            new.status_reason := null;
        end if;
        new.finished_at := null;
        new.fruitless_attempts := 0;
        new.estimated_rows := null;
    elsif new.status in ('cancelled', 'sent') and new.finished_at is null then
        new.finished_at := now();
    end if;
    return new;
end
$$
"""


def upgrade() -> None:
    """Add a function and a trigger; checks no row that is there."""
    op.execute(keeping_function())
    op.execute(
        "create trigger keep_campaign_contract before update of status, attempt, version on campaign"
        " for each row execute function keep_campaign_contract()"
    )
