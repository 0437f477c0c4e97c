"""Campaigns and staged objects in memory, for unit tests of whole steps of a run.

Invariant: a stand-in shares its Protocol's promises: every change of status goes through the state machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from email_platform.domain.campaigns import Campaign, CampaignStatus, check_transition
from email_platform.domain.ports import StagedObject
from email_platform.errors import AccountingError, CampaignNotFoundError


@dataclass
class InMemoryCampaigns:
    """One campaign, and whether all of its chunks are finished as its ledger has it."""

    campaign: Campaign | None
    chunks_unfinished: Any = lambda: 0

    def get(self, campaign_id: int) -> Campaign:
        """See `CampaignStore`."""
        if self.campaign is None or self.campaign.campaign_id != campaign_id:
            raise CampaignNotFoundError(campaign_id)
        return self.campaign

    def change_status(self, campaign_id: int, wanted: CampaignStatus, reason: str | None = None) -> Campaign:
        """See `CampaignStore`."""
        campaign = self.get(campaign_id)
        if campaign.status is not wanted:
            check_transition(campaign_id, campaign.status, wanted)
            if wanted is CampaignStatus.SENT and self.chunks_unfinished():
                raise AccountingError(f"{self.chunks_unfinished()} chunks are not finished")
        self.campaign = replace(campaign, status=wanted, status_reason=reason)
        return self.campaign

    def note_progress(self, campaign_id: int) -> None:
        """See `CampaignStore`."""


@dataclass
class InMemoryRegister:
    """The staging register's part that a run's steps use."""

    objects: dict[str, StagedObject] = field(default_factory=dict)

    def record(self, staged: StagedObject, campaign_id: int | None) -> None:
        """See `StagingRegister`."""
        self.objects[staged.key] = staged

    def staged_rows(self, campaign_id: int) -> Mapping[str, tuple[int, int]]:
        """See `StagingRegister`."""
        return {}

    def unloaded(self, campaign_id: int | None = None, limit: int = 1000) -> Sequence[StagedObject]:
        """See `StagingRegister`."""
        return list(self.objects.values())
