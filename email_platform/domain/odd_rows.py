"""Values that PostgreSQL stores and Python, or a report, cannot hold.

Invariant: reading one odd row never raises. It gives a value that says it is odd, so that the row's owner hears of it
and every other row goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
LATEST = datetime(9999, 12, 31, tzinfo=UTC)
"""Times outside these two are odd: a day of margin keeps them in Python's years in every time zone."""

MAX_ATTRIBUTES_BYTES = 256 << 10
"""As PostgreSQL writes the document; a batch of 5,000 leads is held in memory at once."""


class Unreadable(dict[str, str]):
    """Stands for a JSON document that cannot be read; itself JSON, so that showing it cannot fail.

    Attributes:
        reason: what is wrong, without any value of the document.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(unreadable=reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class OddRow:
    """One row that was set aside.

    Attributes:
        table: its table.
        row_id: its id as text.
        reason: which column is odd and how to mend it; never a value of the row.
    """

    table: str
    row_id: str
    reason: str

    def __str__(self) -> str:
        return f"{self.table} {self.row_id}: {self.reason}"


def is_odd_time(moment: datetime | None) -> bool:
    """Whether a time as it was read stands for one that Python cannot hold."""
    return moment is not None and not EARLIEST < moment < LATEST
