"""Brings the OLTP database to the newest revision.

Invariant: however many processes call this at once, each revision is applied once, whole or not at all, and
every caller returns with the database at head.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from email_platform.adapters.postgres.engine import check_connection, create_oltp_engine
from email_platform.adapters.postgres.people_relations import is_in_place, put_own_back, put_theirs
from email_platform.settings import Settings

MIGRATIONS_FOLDER = Path(__file__).parent / "migrations"

# Our own version table: Dagster keeps its `alembic_version` in the same database where both share one.
MIGRATION_OPTIONS: dict[str, Any] = {
    "version_table": "email_platform_alembic_version",
    "compare_type": True,
    "compare_server_default": True,
}

_LOCK_KEY = 0x656D61696C  # "email"; any fixed number that no other user of the database takes


def upgrade_to_head(url: str, settings: Settings | None = None) -> None:
    """Apply every revision that the database lacks; does nothing where it is at head.

    Needs no alembic.ini. Takes one transaction under an advisory lock, so a revision cannot create an index
    concurrently; such an index is made by hand first and the revision says `if not exists`.

    Args:
        url: ``postgresql+psycopg://user:password@host:port/database``.
        settings: name the users and senders of somebody else's that take the place of our tables, and the pooler that
            `url` leads to; None: our tables, and no pooler.

    Raises:
        ConfigurationError: PostgreSQL refuses the user, password or database; or such users or senders cannot be read.
        PartUnavailableError: nothing answers at the address.
    """
    engine = create_oltp_engine(url, pooler=settings.postgres_pooler if settings else "none")
    try:
        check_connection(engine)
        with engine.begin() as connection:
            # Waits for another process's migration; let go with the transaction, also when this process dies.
            connection.execute(select(func.pg_advisory_xact_lock(_LOCK_KEY)))
            if settings is None or (unapplied(connection) == 0 and is_in_place(connection, settings)):
                command.upgrade(migration_config(connection), "head")
                return
            put_own_back(connection)  # the revisions know tables
            command.upgrade(migration_config(connection), "head")
            put_theirs(connection, settings)
    finally:
        engine.dispose()


def unapplied(connection: Connection) -> int:
    """How many revisions the database lacks; changes nothing."""
    scripts = ScriptDirectory.from_config(migration_config(connection))
    context = MigrationContext.configure(connection, opts={"version_table": MIGRATION_OPTIONS["version_table"]})
    current = context.get_current_revision()
    return sum(1 for _ in scripts.iterate_revisions("head", current)) if current != scripts.get_current_head() else 0


def migration_config(connection: Connection) -> Config:
    """Alembic's configuration over one open connection; the caller commits."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_FOLDER).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config
