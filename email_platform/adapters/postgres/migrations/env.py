"""Runs the revisions over the connection that `migrate.upgrade_to_head` (or a test) hands over.

Invariant: never connects by itself and never sets up logging; the caller owns both.
"""

from __future__ import annotations

from alembic import context

from email_platform.adapters.postgres.migrate import MIGRATION_OPTIONS
from email_platform.adapters.postgres.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    **MIGRATION_OPTIONS,
)

with context.begin_transaction():
    context.run_migrations()
