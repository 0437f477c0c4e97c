"""Step 3 of a campaign's run: judge from the ledger whether the campaign is complete.

Invariant: completeness is judged from the ledger, never from what an orchestrator remembers of its steps.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.domain.manifest import Manifest
from email_platform.errors import (
    CampaignStoppedError,
)
from email_platform.runs.parts import Parts, find_manifest
from email_platform.sending.ledger import CampaignTotals
from email_platform.staging.accounting import AccountingLine, ledger_lines, require_all


@dataclass(frozen=True, slots=True)
class SendingSummary:
    """The campaign after its chunks: what the ledger knows and what became of the status.

    Attributes:
        unknown_by_chunk: recipients of whom nobody knows, by chunk index; chunks without any are left out.
    """

    campaign: Campaign
    manifest: Manifest
    totals: CampaignTotals
    lines: tuple[AccountingLine, ...]
    unknown_by_chunk: Mapping[int, int]


def finish_sending(parts: Parts, campaign_id: int) -> SendingSummary:
    """Judge from the ledger whether the campaign is complete, and if so set it to sent, saying what is unknown.

    Raises:
        CampaignNotFoundError: the row is gone; ledger and staged objects stay.
        CampaignStoppedError: it was paused or cancelled before the last chunk.
        AccountingError: chunks are unfinished or recipients missing; the campaign stays in ``sending``.
    """
    manifest = find_manifest(parts, campaign_id)
    totals = parts.ledger.totals(campaign_id)
    campaign = parts.campaigns.get(campaign_id)
    if campaign.status not in (CampaignStatus.SENDING, CampaignStatus.SENT):
        raise CampaignStoppedError(campaign_id, campaign.status)
    lines = ledger_lines(manifest, totals, complete=True)
    require_all(lines)
    if campaign.status is CampaignStatus.SENDING:
        campaign = parts.campaigns.change_status(campaign_id, CampaignStatus.SENT, sent_reason(manifest, totals))
    unknown: Counter[int] = Counter()
    for chunk_index, record in parts.ledger.unknown_calls(campaign_id) if totals.unknown else ():
        unknown[chunk_index] += record.unknown_count
    return SendingSummary(campaign, manifest, totals, tuple(lines), unknown)


def sent_reason(manifest: Manifest, totals: CampaignTotals) -> str | None:
    """What an operator should know of a campaign that is sent: nobody reached, or outcomes that are unknown."""
    if manifest.eligible_rows == 0:
        return f"nobody to send to: {manifest.considered_rows:,} leads considered, all of them excluded"
    reasons = []
    if totals.rejected and not totals.accepted:
        reasons.append(f"nobody was reached: {totals.rejected:,} of {manifest.eligible_rows:,} recipients were refused")
    if totals.unknown:
        calls = totals.calls_by_state.get("unknown", 0)
        reasons.append(f"{totals.unknown:,} recipients in {calls:,} calls have no answer and are held")
    return "; ".join(reasons) or None
