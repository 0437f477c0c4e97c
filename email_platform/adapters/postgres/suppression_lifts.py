"""Suppressions that a person lifts, with who did it and why.

Invariant: a suppression is gone only where the row that says who lifted it is there: they are one transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import Engine, delete, insert, select

from email_platform.adapters.postgres.tables import api_key, suppression, suppression_lift
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.errors import ConflictError


@dataclass(frozen=True, slots=True)
class LiftedSuppression:
    """One suppression that was lifted.

    Attributes:
        sender_id: whose mail it was about; None for every sender's.
        key_name: of the API key of whoever lifted it.
    """

    lift_id: int
    at: datetime
    key_name: str
    address: str = field(repr=False)
    sender_id: int | None
    reason: str
    source: str
    suppressed_at: datetime
    why: str


class PostgresSuppressionLifts:
    """Lifts suppressions, and lists those that were lifted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def lift(self, suppression_id: int, key_id: int, why: str) -> str:
        """Let the address be mailed again where nothing else suppresses it; returns the address.

        Raises:
            ConflictError: there is no such suppression any more.
        """
        kept = suppression.c
        with oltp_transaction(self._engine) as connection:
            row = connection.execute(
                delete(suppression)
                .where(kept.id == suppression_id)
                .returning(kept.address, kept.sender_id, kept.reason, kept.source, kept.created_at)
            ).one_or_none()
            if row is None:
                raise ConflictError(f"there is no suppression {suppression_id} any more: somebody has lifted it")
            connection.execute(
                insert(suppression_lift).values(
                    key_id=key_id,
                    address=row.address,
                    sender_id=row.sender_id,
                    reason=row.reason,
                    source=row.source,
                    suppressed_at=row.created_at,
                    why=why,
                )
            )
            return str(row.address)

    def newest(self, limit: int, before_id: int | None = None) -> Sequence[LiftedSuppression]:
        """A page of those that were lifted, the newest first."""
        lifted = suppression_lift.c
        statement = (
            select(
                lifted.id.label("lift_id"),
                lifted.at,
                api_key.c.name.label("key_name"),
                lifted.address,
                lifted.sender_id,
                lifted.reason,
                lifted.source,
                lifted.suppressed_at,
                lifted.why,
            )
            .join(api_key, api_key.c.id == lifted.key_id)
            .order_by(lifted.id.desc())
            .limit(limit)
        )
        if before_id is not None:
            statement = statement.where(lifted.id < before_id)
        with oltp_transaction(self._engine) as connection:
            return [LiftedSuppression(**row) for row in connection.execute(statement).mappings()]
