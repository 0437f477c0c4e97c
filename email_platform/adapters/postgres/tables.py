"""The OLTP tables, as SQLAlchemy Core; alembic's migrations create them and a test compares the two.

Grain: ``lead`` one row a lead, ``campaign`` one a campaign, ``campaign_manifest`` at most one a campaign,
``chunk`` one a chunk of a manifest, ``send_call`` one a provider call (never one an email).

Length: every table in one place, each a list of its columns.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    event,
    false,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from email_platform.adapters.postgres.address_functions import address_functions, erasure_function

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _created_at() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


app_user = Table(
    "app_user",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("email", Text, nullable=False, unique=True),
    Column("name", Text, nullable=False),
    _created_at(),
)

sender = Table(
    "sender",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("owner_id", BigInteger, ForeignKey("app_user.id"), nullable=False),
    Column("from_address", Text, nullable=False),
    Column("from_name", Text, nullable=False),
    Column("reply_to", Text),
    Column("provider", Text, nullable=False, server_default="simulator"),
    Column("provider_account", Text, nullable=False, server_default="default"),
    _created_at(),
)

lead = Table(
    "lead",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("email", Text),
    Column("first_name", Text),
    Column("last_name", Text),
    Column("country", Text),  # ISO 3166-1 alpha-2
    Column("city", Text),
    Column("plan", Text),
    Column("language", Text),  # BCP 47
    Column("age", SmallInteger),
    Column("attributes", JSONB, nullable=False, server_default=text("'{}'::jsonb")),
    Column("unsubscribed_at", DateTime(timezone=True)),
    _created_at(),
    Column("own_key", Text),  # in the system that its leads come from
    Index("ix_lead_own_key", "own_key", unique=True, postgresql_where=text("own_key is not null")),
    # Opted-out leads by address: an opt-out belongs to the address, whichever lead has it.
    Index(
        "ix_lead_unsubscribed_address",
        text("email_address_key(email)"),
        postgresql_where=text("unsubscribed_at is not null"),
    ),
)

segment = Table(
    "segment",
    metadata,
    Column("name", Text, primary_key=True),
    Column("condition", JSONB, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("name ~ '^[A-Za-z0-9][A-Za-z0-9 _.-]{0,63}$'", name="name_known"),
)

# One row per import of leads that has begun and not ended: behind which row of its file it goes on.
lead_import = Table(
    "lead_import",
    metadata,
    Column("fingerprint", Text, primary_key=True),  # of the file and how it is read
    Column("last_row", BigInteger, nullable=False),
    Column("added", BigInteger, nullable=False),
    Column("changed", BigInteger, nullable=False),
    Column("progress_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# What is known of each row of the leads' source, and up to where its changes are (`lead_mirror`).
lead_source_row = Table(
    "lead_source_row",
    metadata,
    Column("source_key", BigInteger, primary_key=True, autoincrement=False),  # `lead.own_key` as a number
    Column("checksum", BigInteger, nullable=False),  # as the source's engine computed it
    Column("hashes", JSONB),  # MD5 of the values that a lead keeps in another form
    Column("problem", Text),  # why no lead can be made of it
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("ix_lead_source_row_problem", "source_key", postgresql_where=text("problem is not null")),
)

lead_source_position = Table(
    "lead_source_position",
    metadata,
    Column("source", Text, primary_key=True),  # address and table
    Column("position", DateTime(timezone=True), nullable=False),
    Column("moved_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

suppression = Table(
    "suppression",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("address", Text, nullable=False),  # as `normalised_address` gives it
    Column("sender_id", BigInteger, ForeignKey("sender.id")),  # null: suppressed for every sender
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    _created_at(),
    CheckConstraint("reason in ('hard_bounce', 'complaint', 'unsubscribe', 'manual')", name="reason_known"),
    UniqueConstraint("address", "sender_id", postgresql_nulls_not_distinct=True),
    Index("ix_suppression_sender_id", "sender_id", "id", postgresql_where=text("sender_id is not null")),
)

campaign = Table(
    "campaign",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("owner_id", BigInteger, ForeignKey("app_user.id"), nullable=False),
    Column("sender_id", BigInteger, ForeignKey("sender.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("subject_template", Text, nullable=False),
    Column("html_template", Text, nullable=False),
    Column("text_template", Text, nullable=False, server_default=""),
    Column("mjml", Boolean, nullable=False, server_default=false()),  # the html template is MJML
    Column("inline_css", Boolean, nullable=False, server_default=false()),
    Column("condition", JSONB, nullable=False),
    Column("on_unknown", Text, nullable=False, server_default="hold"),
    Column("status", Text, nullable=False, server_default="draft"),
    Column("status_reason", Text),
    Column("scheduled_at", DateTime(timezone=True)),
    Column("attempt", Integer, nullable=False, server_default="1"),
    Column("queued_at", DateTime(timezone=True)),
    Column("started_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),
    Column("progress_at", DateTime(timezone=True)),  # the last sign of life of a run that works on it
    Column("fruitless_attempts", Integer, nullable=False, server_default="0"),  # in a row, without any progress
    Column("attempt_mark", BigInteger, nullable=False, server_default="0"),  # how far it was when the attempt began
    _created_at(),
    Column("launched_attempt", Integer, nullable=False, server_default="0"),  # Dagster is known to have its run
    Column("estimated_rows", BigInteger),  # recipients still to be reached; null: not counted yet
    Column("version", Integer, nullable=False, server_default="1"),  # raised by each edit
    CheckConstraint(
        "status in ('draft', 'queued', 'sending', 'paused', 'sent', 'cancelled', 'failed')",
        name="status_known",
    ),
    CheckConstraint("on_unknown in ('hold', 'resend')", name="on_unknown_known"),
    Index("ix_campaign_open", "status", postgresql_where=text("status in ('queued', 'sending')")),
    Index("ix_campaign_resting", "status", postgresql_where=text("status in ('draft', 'paused')")),
    Index(
        "ix_campaign_unlaunched",
        "estimated_rows",
        "id",
        postgresql_where=text("status = 'queued' and launched_attempt < attempt"),
    ),
    Index(
        "ix_campaign_at_work",
        "id",
        postgresql_where=text("status = 'sending' or (status = 'queued' and launched_attempt >= attempt)"),
    ),
    Index("ix_campaign_stopped", "id", postgresql_where=text("status in ('paused', 'failed')")),
    Index("ix_campaign_owner_id", "owner_id", "id"),
    Index("ix_campaign_started_at", "started_at"),
    Index("ix_campaign_finished_at", "finished_at"),
)

# No foreign key to campaign: the record of what was sent must survive when somebody deletes the campaign's row.
campaign_manifest = Table(
    "campaign_manifest",
    metadata,
    Column("campaign_id", BigInteger, primary_key=True, autoincrement=False),
    Column("manifest_id", UUID(as_uuid=True), nullable=False),
    Column("prefix", Text, nullable=False),
    Column("eligible_rows", BigInteger, nullable=False),
    Column("excluded_by_reason", JSONB, nullable=False),
    Column("chunk_rows", Integer, nullable=False),
    Column("call_rows", Integer, nullable=False),
    Column("sender", JSONB, nullable=False),
    Column("content", JSONB, nullable=False),
    Column("on_unknown", Text, nullable=False),
    Column("frozen_at", DateTime(timezone=True), nullable=False),
    Column("archived_at", DateTime(timezone=True)),  # its ledger is an object of the bucket; see `ledger_archive`
    Column("archived_totals", JSONB(none_as_null=True)),  # what the ledger's rows added up to
    Column("ledger_removed_at", DateTime(timezone=True)),  # null while rows of an archived ledger are left
    Index(
        "ix_campaign_manifest_half_removed",
        "campaign_id",
        postgresql_where=text("archived_at is not null and ledger_removed_at is null"),
    ),
    Column("condition", JSONB(none_as_null=True)),  # with its segments resolved; null: older than this column
)

chunk = Table(
    "chunk",
    metadata,
    Column("campaign_id", BigInteger, primary_key=True, autoincrement=False),
    Column("chunk_index", Integer, primary_key=True, autoincrement=False),
    Column("lease_epoch", BigInteger, nullable=False, server_default="0"),
    Column("lease_holder", Text),
    Column("lease_expires_at", DateTime(timezone=True)),
    Column("finished_at", DateTime(timezone=True)),  # every call of the chunk has reached an end
)

send_call = Table(
    "send_call",
    metadata,
    Column("campaign_id", BigInteger, primary_key=True, autoincrement=False),
    Column("chunk_index", Integer, primary_key=True, autoincrement=False),
    Column("call_index", Integer, primary_key=True, autoincrement=False),
    Column("call_id", UUID(as_uuid=True), nullable=False),
    Column("state", Text, nullable=False),
    Column("first_position", BigInteger, nullable=False),  # of the manifest, inclusive
    Column("recipient_count", SmallInteger, nullable=False),
    Column("body_sha256", LargeBinary, nullable=False),
    Column("lease_epoch", BigInteger, nullable=False),
    Column("attempts", SmallInteger, nullable=False, server_default="0"),
    Column("intent_at", DateTime(timezone=True), nullable=False),
    Column("receipt_at", DateTime(timezone=True)),
    Column("receipt", JSONB(none_as_null=True)),  # {"ids": [...], "rejected": {"<offset>": [code, message]}}
    Column("error", Text),
    Column("offsets", ARRAY(Integer)),  # of its recipients within the chunk; null: the slice of its index
    Column("follows", Text),  # why its recipients, deferred by earlier calls, have a call of their own
    Column("after_unknown", Boolean, nullable=False, server_default=false()),  # an earlier attempt may be accepted
    CheckConstraint(
        "state in ('planned', 'intent', 'accepted', 'rejected', 'unknown', 'abandoned')", name="state_known"
    ),
    CheckConstraint("follows in ('deferred', 'in_doubt')", name="follows_known"),
    Index("ix_send_call_open", "campaign_id", postgresql_where=text("state in ('intent', 'unknown')")),
)

staged_object = Table(
    "staged_object",
    metadata,
    Column("key", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("campaign_id", BigInteger),
    Column("rows", BigInteger, nullable=False),
    Column("content_sha256", Text, nullable=False),
    Column("staged_at", DateTime(timezone=True), nullable=False),
    Column("loaded_sha256", Text),  # the content that the warehouse holds; behind content_sha256 means: load again
    Column("loaded_rows", BigInteger),
    Column("loaded_at", DateTime(timezone=True)),
    Column("quarantined_reason", Text),
    Index(
        "ix_staged_object_unloaded",
        "staged_at",
        postgresql_where=text("loaded_sha256 is distinct from content_sha256"),
    ),
    Index("ix_staged_object_campaign_id", "campaign_id"),
    Index("ix_staged_object_loaded_at", "loaded_at"),
)

# One row per campaign that was stopped for its bounces or complaints; see `email_platform.runs.guard`. The counts are
# the zero point from which a resumed campaign is judged again.
campaign_guard = Table(
    "campaign_guard",
    metadata,
    Column("campaign_id", BigInteger, primary_key=True, autoincrement=False),
    Column("accepted", BigInteger, nullable=False),
    Column("bounced", BigInteger, nullable=False),
    Column("complained", BigInteger, nullable=False),
    Column("blocked", BigInteger, nullable=False, server_default="0"),
    Column("reason", Text, nullable=False),
    Column("stopped_at", DateTime(timezone=True), nullable=False),
    Column("alerted_at", DateTime(timezone=True)),  # null: nobody has taken the alert yet
    Index("ix_campaign_guard_waiting", "campaign_id", postgresql_where=text("alerted_at is null")),
)

# One row per condition that needed an operator, on one occasion; see `email_platform.alerting`.
alert = Table(
    "alert",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("occasion", Text, nullable=False),
    Column("happened", Text, nullable=False),
    Column("meaning", Text, nullable=False),
    Column("command", Text, nullable=False),
    Column("details", JSONB, nullable=False),
    Column("raised_at", DateTime(timezone=True), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False),
    Column("resolved_at", DateTime(timezone=True)),  # null: it holds
    Index("ix_alert_open", "kind", "subject", unique=True, postgresql_where=text("resolved_at is null")),
    Index("ix_alert_resolved_at", "resolved_at"),
)

# The outbox: one row per alert, target, and whether it says the beginning or the end.
alert_delivery = Table(
    "alert_delivery",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("alert_id", BigInteger, ForeignKey("alert.id", ondelete="CASCADE"), nullable=False),
    Column("target", Text, nullable=False),  # a name that says nothing of its address
    Column("state", Text, nullable=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("taken_at", DateTime(timezone=True)),  # null: the target does not have it yet
    Column("problem", Text),  # why it was not taken the last time
    CheckConstraint("state in ('raised', 'resolved')", name="state_known"),
    UniqueConstraint("alert_id", "target", "state"),
    Index("ix_alert_delivery_due", "due_at", postgresql_where=text("taken_at is null")),
)

# One row per kind of process that looks for alerts: when one of it looked last.
alert_beat = Table(
    "alert_beat",
    metadata,
    Column("host", Text, primary_key=True),
    Column("beat_at", DateTime(timezone=True), nullable=False),
)

# One row per provider account that has a rate: when the next call may start, and how far it is throttled.
provider_rate = Table(
    "provider_rate",
    metadata,
    Column("account", Text, primary_key=True),  # provider/account
    Column("recipients_due_at", DateTime(timezone=True), nullable=False),
    Column("calls_due_at", DateTime(timezone=True), nullable=False),
    Column("blocked_until", DateTime(timezone=True), nullable=False),
    Column("share", Float, nullable=False, server_default="1"),  # of the configured rate, after throttling
    Column("share_at", DateTime(timezone=True), nullable=False),
    Column("throttles", BigInteger, nullable=False, server_default="0"),  # throttled calls, ever
)

# One row per account and campaign that uses it: when the campaign has had its fair share of the account.
provider_rate_flow = Table(
    "provider_rate_flow",
    metadata,
    Column("account", Text, primary_key=True),
    Column("campaign_id", BigInteger, primary_key=True, autoincrement=False),
    Column("due_at", DateTime(timezone=True), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False),  # when it last asked; an active campaign asks often
)

# One row per key of the HTTP API; the key itself is shown once and kept nowhere. Tokens: requests that it has left.
api_key = Table(
    "api_key",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("name", Text, nullable=False),
    Column("prefix", Text, nullable=False),  # of the key, so that people know which it is
    Column("key_sha256", LargeBinary, nullable=False, unique=True),
    Column("role", Text, nullable=False),
    Column("user_id", BigInteger, ForeignKey("app_user.id")),  # whose campaigns it sees; null: everybody's
    _created_at(),
    Column("revoked_at", DateTime(timezone=True)),
    Column("last_used_at", DateTime(timezone=True)),
    Column("tokens", Float, nullable=False, server_default="0"),
    Column("tokens_at", DateTime(timezone=True)),  # when they were counted; null: never used
    CheckConstraint("role in ('owner', 'operator', 'reader')", name="role_known"),
    CheckConstraint("role = 'reader' or (role = 'owner') = (user_id is not null)", name="user_fits"),
)

# One row per Idempotency-Key: what was asked for and what was answered. Status null: nobody knows whether it was done.
api_request = Table(
    "api_request",
    metadata,
    Column("key_id", BigInteger, ForeignKey("api_key.id"), primary_key=True, autoincrement=False),
    Column("idempotency_key", Text, primary_key=True),
    Column("request_sha256", LargeBinary, nullable=False),
    _created_at(),
    Column("status", SmallInteger),
    Column("body", JSONB),
    Index("ix_api_request_created_at", "created_at"),
)

# One row per request to the HTTP API that may change something, made before it does. Status null: it never answered.
api_audit = Table(
    "api_audit",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("key_id", BigInteger, ForeignKey("api_key.id"), nullable=False),
    Column("method", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("status", SmallInteger),
)


# One row per suppression that a person lifted: the row as it was, who lifted it and why. Sending does not read it.
suppression_lift = Table(
    "suppression_lift",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("key_id", BigInteger, ForeignKey("api_key.id"), nullable=False),
    Column("address", Text, nullable=False),
    Column("sender_id", BigInteger, ForeignKey("sender.id")),  # null: it was for every sender
    Column("reason", Text, nullable=False),
    Column("source", Text, nullable=False),
    Column("suppressed_at", DateTime(timezone=True), nullable=False),
    Column("why", Text, nullable=False),
)


# One row per kind of work that one process at a time does, on whichever host: who has it, and until when.
work_lease = Table(
    "work_lease",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", DateTime(timezone=True), nullable=False),
)


# One row per person who was erased; see `email_platform.runs.erase`. The address is here while the work goes on only.
erasure = Table(
    "erasure",
    metadata,
    Column("pseudonym", Text, primary_key=True),  # stands in the place of the address, everywhere
    Column("key_id", Text, nullable=False),  # of the key that it was made with
    Column("requested_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("address", Text),  # null: finished
    Column("removed", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # counts, by place
    Column("rewriting", JSONB, nullable=False, server_default=text("'{}'::jsonb")),  # hashes of objects, by key
    Column("waits_for", JSONB, nullable=False, server_default=text("'[]'::jsonb")),  # why it is not finished, in words
    Column("finished_at", DateTime(timezone=True)),
    Index("ix_erasure_key_id", "key_id"),
    Index("ix_erasure_unfinished", "requested_at", postgresql_where=text("finished_at is null")),
)


@event.listens_for(metadata, "before_create")
def _make_functions(target: MetaData, connection: Connection, **_: object) -> None:
    """An index uses a function, so code that creates the tables without a migration needs it too."""
    schema: str = connection.exec_driver_sql("select quote_ident(current_schema())").scalar_one()
    for statement in (*address_functions(schema), erasure_function(schema)):
        connection.execute(text(statement))
