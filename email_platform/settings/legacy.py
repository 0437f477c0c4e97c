"""The old system's table `email`, from which an import reads."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field

from email_platform.settings.values import OldUrl, PositiveFloat, PositiveSeconds

LEGACY_DATABASE = "legacy"
DEFAULT_LEGACY_FIRST_MONTH = "2020-01"
MONTH_PATTERN = r"^(19|20|21)\d\d-(0[1-9]|1[0-2])$"


class LegacySettings(BaseModel):
    """Where the old table is, and how gently it is read.

    Attributes:
        legacy_url: the database with the old table ``email``, best a read replica's: PostgreSQL, MySQL or MariaDB, by
            the URL's scheme. None: nothing to import. Its earlier name, legacy_postgres_url, is still read. On the
            embedded server the database `LEGACY_DATABASE`, to practise on.
        legacy_first_month: of the old rows' created_at, YYYY-MM; the first partition. Read by Dagster's code when it
            loads, so a change needs a restart.
        legacy_table: its name, with the schema where that is not on the search path.
        legacy_ignored_columns: of the old table, with commas between them: may stay behind.
        legacy_rows_per_second: how many rows an import reads at most, on average. Rows that are only counted count too.
        legacy_statement_timeout_seconds, legacy_lock_timeout_seconds: when a statement at the source gives up.
    """

    legacy_url: OldUrl | None = None
    legacy_first_month: Annotated[str, Field(pattern=MONTH_PATTERN)] = DEFAULT_LEGACY_FIRST_MONTH
    legacy_table: str = "email"
    legacy_ignored_columns: str = ""
    legacy_rows_per_second: PositiveFloat = 50_000
    legacy_statement_timeout_seconds: PositiveSeconds = 60.0
    legacy_lock_timeout_seconds: PositiveSeconds = 2.0
