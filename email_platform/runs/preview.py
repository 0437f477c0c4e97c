"""Before step 1: what a campaign would send now.

Invariant: a preview changes neither the campaign nor its manifest.
"""

from __future__ import annotations

from dataclasses import dataclass

from email_platform.audience.freeze import read_chunk, resolve_audience
from email_platform.domain.campaigns import Campaign
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import (
    Recipient,
)
from email_platform.domain.storage_layout import eligible_key, excluded_key
from email_platform.runs.parts import Parts


@dataclass(frozen=True, slots=True)
class CampaignPreview:
    """What a campaign would send now.

    Attributes:
        manifest: the counts of an audience that was resolved and thrown away.
        samples: the first recipients' messages, as they would be sent.
    """

    campaign: Campaign
    manifest: Manifest
    samples: tuple[Recipient, ...]


def preview_campaign(parts: Parts, campaign_id: int, samples: int = 1) -> CampaignPreview:
    """Resolve the audience, check that everybody can be rendered, render the first few, and forget it again.

    Changes neither the campaign nor its manifest; a campaign whose audience is frozen is previewed as it is frozen.

    Raises:
        CampaignNotFoundError: no such campaign.
        InvalidConditionError, InvalidTemplateError, ConfigurationError: what would fail the campaign.
    """
    campaign = parts.campaigns.get(campaign_id)
    frozen = parts.manifests.find(campaign_id)
    renderer = parts.renderer(frozen or campaign)
    manifest = frozen or resolve_audience(
        campaign,
        parts.audience,
        parts.store,
        parts.clock,
        chunk_rows=parts.chunk_rows,
        call_rows=parts.limits(campaign.sender).recipients_per_call,
    )
    try:
        renderer.check(parts.store, manifest)
        messages: tuple[Recipient, ...] = ()
        if manifest.eligible_rows and samples:
            messages = renderer.render(manifest, read_chunk(parts.store, manifest, 0).slice(0, samples))
        return CampaignPreview(campaign, manifest, messages)
    finally:
        if frozen is None:
            for key in (eligible_key(manifest.prefix), excluded_key(manifest.prefix)):
                parts.store.delete(key)
