"""Since when a queued campaign waits: the figures, the alerts and the status ask for the same."""

from __future__ import annotations

from sqlalchemy import DateTime, literal_column
from sqlalchemy.sql import ColumnElement

DUE_SINCE_SQL = "greatest(coalesce(campaign.queued_at, campaign.created_at), campaign.scheduled_at)"
"""When it was queued, or the time it was planned for where that is later; one in the future waits for nobody.

A campaign without a time of queueing counts from its making. greatest leaves nulls out (PostgreSQL: *Conditional
Expressions*)."""


def due_since() -> ColumnElement[object]:
    """The same for a statement that selects from `campaign`."""
    return literal_column(DUE_SINCE_SQL, DateTime(timezone=True))
