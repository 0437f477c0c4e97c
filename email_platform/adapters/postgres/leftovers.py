"""Rows of work that is over, and which objects are loaded.

Invariant: a row is deleted only where nobody has touched it for so long that its work goes on no more.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime

from sqlalchemy import ColumnElement, Engine, Table, Text, any_, bindparam, delete, func, select
from sqlalchemy.dialects.postgresql import ARRAY

from email_platform.adapters.postgres.tables import (
    lead_import,
    metadata,
    provider_rate_flow,
    staged_object,
    work_lease,
)
from email_platform.adapters.postgres.transactions import oltp_transaction

# A flow that has not asked for so long is of a campaign that is over: one that asks again gets a new row. An import
# that is begun again after its row is gone begins at the first row and finds its leads there.
_LAST_TOUCHED: Mapping[str, ColumnElement[datetime]] = {
    "lead_import": lead_import.c.progress_at,
    "provider_rate_flow": provider_rate_flow.c.seen_at,
    "work_lease": work_lease.c.expires_at,
}


class PostgresLeftovers:
    """`email_platform.runs.retention.Leftovers`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def loaded(self, keys: Collection[str]) -> Collection[str]:
        """Of these objects those whose present content the warehouse holds."""
        columns = staged_object.c
        statement = select(columns.key).where(
            columns.key == any_(bindparam("keys", list(keys), ARRAY(Text))),
            columns.loaded_sha256 == columns.content_sha256,
        )
        with oltp_transaction(self._engine) as connection:
            return set(connection.execute(statement).scalars())

    def leftover_rows(self, before: datetime, remove: bool) -> Mapping[str, int]:
        """By table, the rows that nobody has touched since the moment; deleted where asked."""
        found: dict[str, int] = {}
        for name, touched_at in _LAST_TOUCHED.items():
            table: Table = metadata.tables[name]
            with oltp_transaction(self._engine) as connection:
                if remove:
                    found[name] = connection.execute(delete(table).where(touched_at < before)).rowcount
                else:
                    counted = select(func.count()).select_from(table).where(touched_at < before)
                    found[name] = connection.execute(counted).scalar_one()
        return found
