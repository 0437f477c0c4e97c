"""The frozen audience of one campaign: every lead considered, either eligible or excluded with a reason.

Invariant: once a campaign has a manifest, its recipients, their order, the chunk borders and the call
borders never change again; all of them follow from the manifest alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, Protocol, get_args
from uuid import UUID

import pyarrow as pa

from email_platform.domain.campaigns import CampaignContent, OnUnknown, Sender

ExclusionReason = Literal["suppressed", "unsubscribed", "invalid_address", "duplicate_address", "unreadable"]
"""``unreadable``: the lead's attributes are JSON that PostgreSQL stores and nobody can render."""
EXCLUSION_REASONS: tuple[ExclusionReason, ...] = get_args(ExclusionReason)

# One row per lead that meets the condition, ordered by lead_id: as the OLTP database has it before the manifest
# is written. `email` without spaces around it; `reason` is an ExclusionReason, or null for an eligible lead.
CANDIDATE_SCHEMA = pa.schema(
    [
        pa.field("lead_id", pa.int64(), nullable=False),
        pa.field("email", pa.string()),
        pa.field("first_name", pa.string()),
        pa.field("last_name", pa.string()),
        pa.field("country", pa.string()),
        pa.field("city", pa.string()),
        pa.field("plan", pa.string()),
        pa.field("language", pa.string()),
        pa.field("age", pa.int32()),
        pa.field("attributes", pa.string(), nullable=False),
        pa.field("reason", pa.string()),
    ]
)

# One row per eligible lead, ordered by lead_id; `position` counts from 0. The lead's columns are a snapshot
# taken when the manifest was frozen, so that a retried call renders the same bytes. `attributes` is JSON text.
ELIGIBLE_SCHEMA = pa.schema(
    [
        pa.field("position", pa.int64(), nullable=False),
        pa.field("lead_id", pa.int64(), nullable=False),
        pa.field("email", pa.string(), nullable=False),
        pa.field("first_name", pa.string()),
        pa.field("last_name", pa.string()),
        pa.field("country", pa.string()),
        pa.field("city", pa.string()),
        pa.field("plan", pa.string()),
        pa.field("language", pa.string()),
        pa.field("age", pa.int32()),
        pa.field("attributes", pa.string(), nullable=False),
    ]
)

# One row per lead that met the condition but must not be mailed, ordered by lead_id.
EXCLUDED_SCHEMA = pa.schema(
    [
        pa.field("campaign_id", pa.int64(), nullable=False),
        pa.field("lead_id", pa.int64(), nullable=False),
        pa.field("email", pa.string()),
        pa.field("reason", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The row of ``campaign_manifest``: where the frozen audience is, what is in it and how it is cut.

    Attributes:
        prefix: folder of the two objects (see `storage_layout`).
        chunk_rows: eligible rows per chunk = rows per Parquet row group; the last chunk may be shorter.
        call_rows: recipients per provider call, frozen so that call borders never move.
        sender, content, on_unknown: frozen too: an edit of the campaign cannot change a message half-way.
        condition: whom it was frozen for, with its segments resolved; None where it is older than this attribute.
        excluded_by_reason: has every reason, also those with 0.
        archived_at: since when its ledger is an object of the bucket and no row any more; its `content` is empty then,
            and nothing can be sent. None for every other campaign.
    """

    campaign_id: int
    manifest_id: UUID
    prefix: str
    eligible_rows: int
    excluded_by_reason: Mapping[ExclusionReason, int]
    chunk_rows: int
    call_rows: int
    sender: Sender
    content: CampaignContent
    on_unknown: OnUnknown
    frozen_at: datetime
    archived_at: datetime | None = None
    condition: Any = None

    @property
    def excluded_rows(self) -> int:
        """Leads left out, over all reasons."""
        return sum(self.excluded_by_reason.values())

    @property
    def considered_rows(self) -> int:
        """Leads that met the condition."""
        return self.eligible_rows + self.excluded_rows

    @property
    def chunk_count(self) -> int:
        """How many chunks the eligible rows make; 0 for an empty audience."""
        return -(-self.eligible_rows // self.chunk_rows)

    def chunk_size_rows(self, chunk_index: int) -> int:
        """Eligible rows in one chunk.

        Raises:
            IndexError: there is no such chunk.
        """
        if not 0 <= chunk_index < self.chunk_count:
            raise IndexError(
                f"campaign {self.campaign_id} has {self.chunk_count} chunks, none with index {chunk_index}"
            )
        return min(self.chunk_rows, self.eligible_rows - chunk_index * self.chunk_rows)


class ManifestStore(Protocol):
    """Which manifest of a campaign counts: the first one frozen, for ever."""

    def find(self, campaign_id: int) -> Manifest | None:
        """The campaign's frozen manifest, or None where its audience was never frozen."""
        ...

    def freeze(self, manifest: Manifest) -> Manifest:
        """Make this the campaign's manifest, with its chunks; returns the earlier one where there is one."""
        ...
