"""Which engine the old table is in: the one place that chooses, by the scheme of EMAIL_PLATFORM_LEGACY_URL."""

from __future__ import annotations

from email_platform.adapters.mysql.legacy_source import MysqlLegacySource
from email_platform.adapters.postgres.legacy_source import PostgresLegacySource
from email_platform.errors import ConfigurationError
from email_platform.settings import Settings, is_mysql, variable_of


def legacy_source(settings: Settings) -> PostgresLegacySource | MysqlLegacySource:
    """The old table of the settings; connects on first use, to be closed.

    Raises:
        ConfigurationError: there is none.
    """
    if settings.legacy_url is None:
        raise ConfigurationError(
            f"{variable_of('legacy_url')} is not set: set it to the old database (best a read replica), "
            "postgresql://user:password@host:port/database, or mysql://… or mariadb://…"
        )
    url = settings.legacy_url.get_secret_value()
    open_source = MysqlLegacySource.from_url if is_mysql(url) else PostgresLegacySource
    return open_source(
        url,
        settings.legacy_table,
        ignored_columns=[name.strip() for name in settings.legacy_ignored_columns.split(",") if name.strip()],
        statement_timeout_seconds=settings.legacy_statement_timeout_seconds,
        lock_timeout_seconds=settings.legacy_lock_timeout_seconds,
    )
