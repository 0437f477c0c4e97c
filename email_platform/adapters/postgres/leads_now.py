"""Single leads as their rows are now, with PostgreSQL's answer to each comparison of a condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
from psycopg.errors import QueryCanceled
from sqlalchemy import Engine, FromClause, Row, Select, Text, cast, false, func, select, text
from sqlalchemy.exc import DBAPIError

from email_platform.adapters.postgres.audience import (
    is_valid_address_sql,
    mailable_address_sql,
    normalised_address_sql,
)
from email_platform.adapters.postgres.condition_sql import compared_value, where_clause
from email_platform.adapters.postgres.lead_relation import OUR_LEADS, LeadRelation
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.audience.condition_answers import Answer, LeadNow
from email_platform.audience.conditions import Comparison
from email_platform.domain.manifest import ELIGIBLE_SCHEMA
from email_platform.domain.odd_rows import MAX_ATTRIBUTES_BYTES, is_odd_time
from email_platform.errors import PartUnavailableError

SEARCH_SECONDS = 5
"""How long leads are searched by address: there is no index on it, since writing it would cost every import."""
_VALUE_CHARACTERS = 200
_COPIED = ("first_name", "last_name", "country", "city", "plan", "language", "age")


class PostgresLeadsNow:
    """`email_platform.audience.condition_answers.LeadsNow` over the leads.

    Args:
        engine: the OLTP database.
        leads: where leads are.
    """

    def __init__(self, engine: Engine, leads: LeadRelation = OUR_LEADS) -> None:
        self._engine = engine
        self._leads = leads

    def lead(self, lead_id: int, comparisons: Sequence[Comparison]) -> LeadNow | None:
        """The lead, with an answer to each comparison; see the Protocol."""
        lead = self._leads.source(self._engine)
        asked = [
            column
            for index, one in enumerate(comparisons)
            for column in (
                func.coalesce(where_clause(one, lead.c), false()).label(f"holds_{index}"),
                func.left(cast(compared_value(one, lead.c), Text), _VALUE_CHARACTERS).label(f"value_{index}"),
            )
        ]
        with oltp_transaction(self._engine) as connection:
            row = connection.execute(_leads(lead).add_columns(*asked).where(lead.c.id == lead_id)).one_or_none()
        if row is None:
            return None
        found = row._mapping
        answers = [
            Answer(one, bool(found[f"holds_{index}"]), found[f"value_{index}"]) for index, one in enumerate(comparisons)
        ]
        return _lead_now(row, tuple(answers))

    def mailable_row(self, lead_id: int) -> pa.Table | None:
        """The lead's row as a manifest would have it, but without its id, whether or not it may be mailed."""
        lead = self._leads.source(self._engine)
        statement = select(
            mailable_address_sql(lead.c.email).label("email"),
            *(lead.c[name] for name in _COPIED),
            func.coalesce(cast(lead.c.attributes, Text), "{}").label("attributes"),
        ).where(lead.c.id == lead_id)
        with oltp_transaction(self._engine) as connection:
            row = connection.execute(statement).mappings().one_or_none()
        if row is None:
            return None
        values = {**row, "position": 0, "lead_id": 0, "email": row["email"] or ""}
        return pa.Table.from_pylist([values], schema=ELIGIBLE_SCHEMA)

    def with_address(self, address: str, limit: int) -> Sequence[LeadNow] | None:
        """Leads that have the address; see the Protocol. Reads the table, for at most `SEARCH_SECONDS`."""
        lead = self._leads.source(self._engine)
        statement = _leads(lead).where(normalised_address_sql(lead.c.email) == address).order_by(lead.c.id).limit(limit)
        try:
            with oltp_transaction(self._engine) as connection:
                connection.execute(text(f"set local statement_timeout = {SEARCH_SECONDS * 1000}"))
                return [_lead_now(row) for row in connection.execute(statement)]
        except PartUnavailableError as error:
            if isinstance(error.__cause__, DBAPIError) and isinstance(error.__cause__.orig, QueryCanceled):
                return None
            raise


def _leads(lead: FromClause) -> Select[Any]:
    return select(
        lead.c.id,
        lead.c.email,
        lead.c.created_at,
        lead.c.unsubscribed_at,
        func.coalesce(is_valid_address_sql(lead.c.email), false()).label("is_valid"),
        func.json_problem(lead.c.attributes, MAX_ATTRIBUTES_BYTES, type_=Text()).label("unreadable"),
    )


def _lead_now(row: Row[Any], answers: tuple[Answer, ...] = ()) -> LeadNow:
    created_at = None if is_odd_time(row.created_at) else row.created_at
    return LeadNow(row.id, row.email, created_at, row.unsubscribed_at, row.is_valid, row.unreadable, answers)
