"""Have functions that run with their owner's rights look among temporary tables last.

Revision ID: 0023
Revises: 0022

Where a function's own ``search_path`` does not name ``pg_temp``, PostgreSQL looks there for tables and views before
everywhere else ("Writing SECURITY DEFINER Functions Safely" in its documentation of ``create function``). Whoever may
call such a function could put a view of their own in the place of one of its tables, and what the view calls would run
with the owner's rights.
"""

from __future__ import annotations

from alembic import op

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None

_FUNCTIONS = ("remove_archived_ledger(bigint, integer)", "erase_leads(text)", "remove_leads_of_source(bigint[])")


def upgrade() -> None:
    """Set the path of three functions; touches no row."""
    schema: str = op.get_bind().exec_driver_sql("select quote_ident(current_schema())").scalar_one()
    for function in _FUNCTIONS:
        op.execute(f"alter function {function} set search_path = {schema}, pg_temp")
