"""Where the audience's candidates come from, as a small Protocol; PostgreSQL's adapter fulfils it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from email_platform.audience.conditions import Condition


@dataclass(frozen=True, slots=True)
class OtherType:
    """Leads that a comparison passes over, since their attribute is of another type than it compares.

    Attributes:
        field: ``attributes.<key>``.
        compared: the comparison's type.
        found: the JSON type that they have: string, number, boolean, array or object.
        leads: how many, of all leads there are.
    """

    field: str
    compared: str
    found: str
    leads: int

    def __str__(self) -> str:
        have = "a text that is no timestamp" if self.compared == "timestamp" and self.found == "string" else self.found
        return f"{self.field}: {self.leads:,} leads have {_SHOWN.get(have, have)} where the condition compares " + (
            f"a {self.compared}"
        )


_SHOWN = {
    "string": "a text",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "an object",
}


class AudienceSource(Protocol):
    """Reads candidate leads from the OLTP database."""

    def resolved(self, condition: object) -> object:
        """The condition (JSON, not yet parsed) with its segments as they are now.

        Raises:
            InvalidConditionError: a segment is not there, or contains itself.
        """
        ...

    def estimate_rows(self, condition: object) -> int:
        """The planner's estimate of how many leads meet a condition (JSON, not yet parsed); cheap, may be far off.

        Raises:
            InvalidConditionError: the condition breaks the grammar.
        """
        ...

    def count_rows(self, condition: object, at_most_rows: int, timeout_seconds: float) -> int | None:
        """How many leads meet the condition, or ``at_most_rows`` where that many do; None where the time ran out.

        Raises:
            InvalidConditionError: the condition breaks the grammar.
        """
        ...

    def other_types(self, condition: object, timeout_seconds: float) -> Sequence[OtherType] | None:
        """How many leads have an attribute of another type than a comparison's; None where the time ran out.

        Args:
            condition: JSON, not yet parsed.
            timeout_seconds: every lead is read.

        Raises:
            InvalidConditionError: the condition breaks the grammar.
        """
        ...

    def stream(
        self, condition: Condition, sender_id: int, batch_rows: int
    ) -> AbstractContextManager[Iterator[pa.RecordBatch]]:
        """Everybody who meets the condition, as of one moment, in batches of `manifest.CANDIDATE_SCHEMA`.

        Each lead comes once, in lead_id order. The snapshot is let go at the end of the `with`.
        """
        ...
