"""Sends once more to recipients who were refused, once the reason for the refusal is fixed.

Invariant: a recipient whose message may have been accepted at any time, or who is suppressed, never comes back.
"""

from __future__ import annotations

from dataclasses import dataclass

from email_platform.domain.campaigns import Campaign
from email_platform.runs.parts import Parts, manifest_with_ledger


@dataclass(frozen=True, slots=True)
class RejectedPutBack:
    """How many recipients are sent to again, and the campaign as it is now."""

    recipients: int
    campaign: Campaign


def retry_rejected(parts: Parts, campaign_id: int, code: str | None = None) -> RejectedPutBack:
    """Have the campaign's recipients whose refusal is certain sent to again, through follow-up calls.

    A campaign that is sent is queued; one that is paused waits to be resumed. Asking twice changes nothing more; after
    a death in the middle, the same command does the rest.

    Args:
        parts: the outside world.
        campaign_id: which campaign.
        code: only those refused with this code, as the reports show it.

    Raises:
        CampaignNotFoundError: the row is gone.
        CampaignStoppedError: the campaign has no frozen audience, so nobody was ever refused.
    """
    parts.campaigns.get(campaign_id)
    manifest = manifest_with_ledger(parts, campaign_id)
    recipients = parts.ledger.put_back_rejected(campaign_id, manifest.chunk_rows, code)
    return RejectedPutBack(recipients, parts.campaigns.get(campaign_id))
