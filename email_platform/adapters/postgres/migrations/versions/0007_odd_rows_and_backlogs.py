"""Refuse values that Python or the reports cannot hold, and keep what the sensors need to stay quick in a backlog.

The refusals are triggers, not check constraints. A check constraint that is not valid yet lets an odd row stay, but
refuses every later update of it: the campaign could not be set to failed, nor the lead's opt-out be recorded. A trigger
looks only at the columns that are written with a new value.

Revision ID: 0007
Revises: 0006
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

# Null: the document can be read. In this order: 65 levels take 130 characters and such a number 309, so most leads cost
# one look; and the search for numbers would pass PostgreSQL's own stack limit in a document that is nested too deeply.
# No double is beyond 1e308. Neither function is strict, or PostgreSQL would not inline it.
JSON_PROBLEM = """
create function json_problem(document jsonb, most_bytes integer) returns text
language sql immutable parallel safe
as $$
    select case
        when octet_length(document::text) < 130 then null
        when jsonb_path_exists(document, 'strict $.**{65}') then 'is nested more than 64 levels deep'
        when octet_length(document::text) > most_bytes then 'has more than ' || most_bytes || ' bytes'
        when jsonb_path_exists(document, 'strict $.** ? (@.type() == "number" && (@ > 1e308 || @ < -1e308))')
            then 'has a number beyond 1e308'
    end
$$
"""

# A day inside Python's years at both ends, so that no time zone leads out of them.
IS_ODD_TIME = """
create function is_odd_time(moment timestamptz) returns boolean
language sql immutable parallel safe
as $$
    select moment <= timestamptz '0001-01-02 00:00:00+00' or moment >= timestamptz '9999-12-31 00:00:00+00'
$$
"""

REFUSE = """
create function refuse_odd_value(problem text) returns void
language plpgsql
as $$
begin
    raise exception using
        errcode = 'check_violation',
        message = problem,
        hint = 'A time must be finite and in the years 1 to 9999; write null where there is none.'
            ' A JSON document must be small and flat enough to be read again.';
end
$$
"""

TIMES: dict[str, tuple[str, ...]] = {
    "app_user": ("created_at",),
    "sender": ("created_at",),
    "suppression": ("created_at",),
    "lead": ("unsubscribed_at", "created_at"),
    "campaign": ("scheduled_at", "queued_at", "started_at", "finished_at", "progress_at", "created_at"),
}
DOCUMENTS: dict[str, tuple[str, int]] = {"lead": ("attributes", 262144), "campaign": ("condition", 16777216)}

STATEMENTS = (
    "alter table campaign add column launched_attempt integer not null default '0'",
    "alter table campaign add column estimated_rows bigint",
    """
    create index ix_campaign_unlaunched on campaign (estimated_rows, id)
    where status = 'queued' and launched_attempt < attempt
    """,
    """
    create index ix_campaign_at_work on campaign (id)
    where status = 'sending' or (status = 'queued' and launched_attempt >= attempt)
    """,
    "create index ix_campaign_started_at on campaign (started_at)",
    "create index ix_campaign_finished_at on campaign (finished_at)",
    "create index ix_staged_object_loaded_at on staged_object (loaded_at)",
)


def refusing_function(table: str) -> str:
    """The trigger's function: refuses an odd value that is new, and forgets an estimate for another condition."""
    checks = [
        f"if is_odd_time(new.{column}) and (tg_op = 'INSERT' or new.{column} is distinct from old.{column}) then"
        f" perform refuse_odd_value('{table}.{column} is infinite or outside the years 1 to 9999'); end if;"
        for column in TIMES[table]
    ]
    if table in DOCUMENTS:
        column, most_bytes = DOCUMENTS[table]
        forgets = " if tg_op = 'UPDATE' then new.estimated_rows := null; end if;" if table == "campaign" else ""
        checks.append(
            f"if tg_op = 'INSERT' or new.{column} is distinct from old.{column} then"
            f" if json_problem(new.{column}, {most_bytes}) is not null then"
            f" perform refuse_odd_value('{table}.{column} ' || json_problem(new.{column}, {most_bytes})); end if;"
            f"{forgets} end if;"
        )
    body = "\n    ".join(["begin", *checks, "return new;"])
    return f"create function refuse_odd_{table}() returns trigger language plpgsql as $$\n{body}\nend\n$$"


def upgrade() -> None:
    """Add the columns, indexes, functions and triggers; rewrites and checks no row that is there."""
    for statement in (*STATEMENTS, JSON_PROBLEM, IS_ODD_TIME, REFUSE):
        op.execute(statement)
    for table in TIMES:
        op.execute(refusing_function(table))
        columns = ", ".join((*TIMES[table], *DOCUMENTS.get(table, ())[:1]))
        op.execute(
            f"create trigger refuse_odd_{table} before insert or update of {columns} on {table}"
            f" for each row execute function refuse_odd_{table}()"
        )


def downgrade() -> None:
    """Take all of it away again; odd values are stored as before."""
    for table in TIMES:
        op.execute(f"drop trigger refuse_odd_{table} on {table}")
        op.execute(f"drop function refuse_odd_{table}()")
    for function in ("refuse_odd_value(text)", "is_odd_time(timestamptz)", "json_problem(jsonb, integer)"):
        op.execute(f"drop function {function}")
    for index in (
        "ix_campaign_unlaunched",
        "ix_campaign_at_work",
        "ix_campaign_started_at",
        "ix_campaign_finished_at",
        "ix_staged_object_loaded_at",
    ):
        op.execute(f"drop index {index}")
    op.execute("alter table campaign drop column launched_attempt, drop column estimated_rows")
