"""What became of each recipient: the row staged to S3 and loaded into ClickHouse.

Invariant: a delivery's version grows only with what is known (unknown < abandoned < rejected < accepted),
so loading an older object after a newer one cannot move a delivery back.
"""

from __future__ import annotations

from typing import Literal, get_args

import pyarrow as pa

DeliveryStatus = Literal["unknown", "abandoned", "rejected", "accepted"]
DELIVERY_STATUSES: tuple[DeliveryStatus, ...] = get_args(DeliveryStatus)

_RANK: dict[DeliveryStatus, int] = {status: rank for rank, status in enumerate(DELIVERY_STATUSES, start=1)}

# One row per recipient whose call was at least intended, ordered by position; grain (campaign_id, lead_id).
DELIVERY_SCHEMA = pa.schema(
    [
        pa.field("campaign_id", pa.int64(), nullable=False),
        pa.field("lead_id", pa.int64(), nullable=False),
        pa.field("message_id", pa.string(), nullable=False),  # canonical UUID text
        pa.field("owner_id", pa.int64(), nullable=False),
        pa.field("sender_id", pa.int64(), nullable=False),
        pa.field("email", pa.string(), nullable=False),
        pa.field("provider", pa.string(), nullable=False),
        pa.field("provider_message_id", pa.string(), nullable=False),  # "" unless accepted
        pa.field("status", pa.string(), nullable=False),  # DeliveryStatus
        pa.field("error_code", pa.string(), nullable=False),  # "" where there is none
        pa.field("error_message", pa.string(), nullable=False),
        pa.field("chunk_index", pa.int32(), nullable=False),
        pa.field("call_index", pa.int32(), nullable=False),
        pa.field("call_id", pa.string(), nullable=False),  # canonical UUID text
        pa.field("occurred_at", pa.timestamp("ms", tz="UTC"), nullable=False),  # receipt's time; intent's if none came
        pa.field("version", pa.uint64(), nullable=False),
    ]
)


def delivery_version(status: DeliveryStatus, occurred_at_ms: int, *, follows_refusal: bool = False) -> int:
    """Order two records of one delivery: rank of the status first, then the time in Unix milliseconds.

    Args:
        status: what is known.
        occurred_at_ms: since when.
        follows_refusal: an earlier call's record may say rejected, and somebody had the recipient tried again: the
            state of this later call counts, even where less is known of it.
    """
    if follows_refusal and _RANK[status] < _RANK["rejected"]:
        return (_RANK["rejected"] << 48) | (occurred_at_ms + _RANK[status])
    return (_RANK[status] << 48) | occurred_at_ms
