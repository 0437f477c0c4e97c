"""A verified body exactly as it came, and its Parquet form in the inbox, the archive and the quarantine.

Invariant: every body that we acknowledged is kept byte for byte, so everything derived from it can be
derived again after a fix. No header but the allow-listed ones is kept: no credential, no signature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO

import pyarrow as pa
import pyarrow.parquet as pq

# One row per request body.
RECEIVED_SCHEMA = pa.schema(
    [
        pa.field("provider", pa.string(), nullable=False),
        pa.field("account", pa.string(), nullable=False),
        pa.field("received_at", pa.timestamp("ms", tz="UTC"), nullable=False),
        pa.field("webhook_id", pa.string(), nullable=False),  # the provider's id of the notification, or ""
        pa.field("body", pa.binary(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),  # why it lies in the quarantine; "" elsewhere
    ]
)


@dataclass(frozen=True, slots=True)
class ReceivedBody:
    """One verified request.

    Attributes:
        webhook_id: the notification's id from the headers (Svix), which repeats with a retry, else empty.
        problem: why it could not be normalised, without any of its content; empty while nothing is known.
    """

    provider: str
    account: str
    received_at: datetime
    webhook_id: str
    body: bytes
    problem: str = ""

    def __repr__(self) -> str:
        # The body holds addresses: a repr ends up in logs and tracebacks.
        return f"ReceivedBody({self.provider}/{self.account}, {len(self.body)} bytes, problem={self.problem!r})"


def to_parquet(bodies: Sequence[ReceivedBody]) -> bytes:
    """The bodies as one Parquet object of `RECEIVED_SCHEMA`; the same bodies give the same bytes."""
    table = pa.table(
        [pa.array([getattr(body, field.name) for body in bodies], field.type) for field in RECEIVED_SCHEMA],
        schema=RECEIVED_SCHEMA,
    )
    buffer = BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(content: bytes) -> list[ReceivedBody]:
    """The inverse of `to_parquet`.

    Raises:
        pyarrow.ArrowException: the object is not Parquet, lacks a column or a value, or has a text that is no UTF-8.
        OSError: a page is damaged.
    """
    table = pq.read_table(BytesIO(content), schema=RECEIVED_SCHEMA)
    table.validate(full=True)  # a damaged text would be found first where it becomes one of Python's
    for name in table.column_names:
        if table.column(name).null_count:  # of a column that is not there, too
            raise pa.ArrowInvalid(f"a body has no {name}")
    return [ReceivedBody(**row) for row in table.to_pylist()]
