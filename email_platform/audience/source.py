"""Where the audience's candidates come from, as a small Protocol; PostgreSQL's adapter fulfils it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import pyarrow as pa

from email_platform.audience.conditions import Condition


class AudienceSource(Protocol):
    """Reads candidate leads from the OLTP database."""

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

    def stream(
        self, condition: Condition, sender_id: int, batch_rows: int
    ) -> AbstractContextManager[Iterator[pa.RecordBatch]]:
        """Everybody who meets the condition, as of one moment, in batches of `manifest.CANDIDATE_SCHEMA`.

        Each lead comes once, in lead_id order. The snapshot is let go at the end of the `with`.
        """
        ...
