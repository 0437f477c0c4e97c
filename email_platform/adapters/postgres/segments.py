"""Conditions with a name, in the table ``segment``.

Invariant: a segment that is kept here could be used when it was written: it parses, with the segments in it, and does
not contain itself. One that somebody writes by SQL is checked when it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Engine, Row, func, select, text
from sqlalchemy.dialects.postgresql import insert

from email_platform.adapters.postgres.tables import segment
from email_platform.adapters.postgres.transactions import oltp_transaction
from email_platform.audience.conditions import parse_condition
from email_platform.audience.conditions.segments import SEGMENT_NAME, resolve_segments
from email_platform.errors import CommandRefusedError, InvalidConditionError


@dataclass(frozen=True, slots=True)
class Segment:
    """One condition with a name.

    Attributes:
        condition: as parsed JSON; it may name other segments.
        changed_at: when it was written last.
    """

    name: str
    condition: Any
    changed_at: datetime


class PostgresSegments:
    """The stored segments."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def all(self) -> list[Segment]:
        """Every segment, by name."""
        with oltp_transaction(self._engine) as connection:
            return [_segment(row) for row in connection.execute(select(segment).order_by(segment.c.name))]

    def conditions(self) -> dict[str, object]:
        """Every segment's condition by name, as of one moment."""
        with oltp_transaction(self._engine) as connection:
            return _conditions(connection)

    def put(self, name: str, condition: object, *, replace: bool) -> bool:
        """Keep the condition under the name; False where there was such a segment, which `replace` allows.

        Raises:
            CommandRefusedError: there is one and it may not be replaced, or this is no name.
            InvalidConditionError: it breaks the grammar, names a segment that is not there, or contains itself.
        """
        if not SEGMENT_NAME.search(name):
            raise CommandRefusedError(
                "a segment's name begins with a letter or digit and has up to 64 letters, digits, spaces, _ . or -"
            )
        with oltp_transaction(self._engine) as connection:
            # One writer at a time: two that each add one half of a cycle would not see the other's.
            connection.execute(text("lock table segment in share row exclusive mode"))
            others = _conditions(connection)
            is_new = name not in others
            if not is_new and not replace:
                raise CommandRefusedError(f"there is a segment {name!r} already; replace it with --replace")
            # Within a group, since a segment for everybody could not be used as a part.
            reference = {"all": [{"segment": name}]}
            parse_condition(resolve_segments(reference, {**others, name: condition}))
            _check_users(name, {**others, name: condition})
            statement = insert(segment).values(name=name, condition=condition)
            connection.execute(
                statement.on_conflict_do_update(
                    index_elements=[segment.c.name],
                    set_={"condition": statement.excluded.condition, "changed_at": func.now()},
                )
            )
        return is_new


def _check_users(changed: str, conditions: dict[str, object]) -> None:
    """Refuse a change that breaks another segment, which was in order before it."""
    for name, condition in conditions.items():
        if name == changed or not _names(condition, changed):
            continue
        try:
            parse_condition(resolve_segments(condition, conditions))
        except InvalidConditionError as error:
            raise InvalidConditionError(error.path, f"{error.problem} (in segment {name!r}, which uses it)") from None


def _names(condition: object, name: str) -> bool:
    if isinstance(condition, dict):
        return condition.get("segment") == name or any(_names(part, name) for part in condition.values())
    return isinstance(condition, list) and any(_names(part, name) for part in condition)


def _conditions(connection: Connection) -> dict[str, object]:
    return {row.name: row.condition for row in connection.execute(select(segment.c.name, segment.c.condition))}


def _segment(row: Row[Any]) -> Segment:
    return Segment(row.name, row.condition, row.changed_at)
