"""Step 1 of a campaign's run: freeze its audience.

Invariant: a campaign has one manifest for ever; the step that finds one changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from email_platform.audience.freeze import resolve_audience
from email_platform.content.check import ContentCheck
from email_platform.content.prepare import prepared_content
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.domain.manifest import Manifest
from email_platform.domain.ports import (
    StagedObject,
)
from email_platform.domain.storage_layout import excluded_key
from email_platform.errors import (
    CampaignStoppedError,
    ConfigurationError,
    ContentHeldError,
    InvalidConditionError,
    InvalidTemplateError,
)
from email_platform.runs.parts import Parts


@dataclass(frozen=True, slots=True)
class FrozenAudience:
    """A campaign's manifest and whether this step made it (or found it)."""

    campaign: Campaign
    manifest: Manifest
    frozen_now: bool


def freeze_audience(
    parts: Parts, campaign_id: int, on_progress: Callable[[int], None] = lambda _: None
) -> FrozenAudience:
    """Put the campaign into ``sending`` and freeze its audience, or find the one frozen before.

    A campaign that is sent or stopped keeps its status; its manifest is returned if it has one.

    Args:
        parts: the outside world.
        campaign_id: which campaign.
        on_progress: called with the number of leads considered so far.

    Raises:
        CampaignNotFoundError: the row is gone.
        CampaignStoppedError: it has no manifest and may not send now.
        InvalidConditionError, InvalidTemplateError: the campaign is set to failed with the reason.
        ContentHeldError: more recipients than the settings allow cannot be rendered; the campaign is paused with the
            reason and nothing is frozen, so that a mended template or lead counts when it is queued again.
    """
    campaign = parts.campaigns.get(campaign_id)
    if campaign.status in (CampaignStatus.QUEUED, CampaignStatus.SENDING):
        campaign = parts.campaigns.change_status(campaign_id, CampaignStatus.SENDING)
    manifest = parts.manifests.find(campaign_id)
    if manifest is not None:
        _register_exclusions(parts, manifest)
        return FrozenAudience(campaign, manifest, frozen_now=False)
    if campaign.status is not CampaignStatus.SENDING:
        raise CampaignStoppedError(campaign_id, campaign.status)
    if not campaign.sender.from_address:  # it was launched before its sender went
        parts.campaigns.change_status(campaign_id, CampaignStatus.FAILED, campaign.problem)
        raise CampaignStoppedError(campaign_id, CampaignStatus.FAILED)

    def noticed(rows: int) -> None:
        parts.campaigns.note_progress(campaign_id)
        on_progress(rows)

    try:
        campaign = replace(campaign, content=prepared_content(campaign.content))
        renderer = parts.renderer(campaign)
        resolved = resolve_audience(
            campaign,
            parts.audience,
            parts.store,
            parts.clock,
            chunk_rows=parts.chunk_rows,
            call_rows=parts.limits(campaign.sender).recipients_per_call,
            on_progress=noticed,
        )
        check = renderer.check(parts.store, resolved)
    except (InvalidConditionError, InvalidTemplateError, ConfigurationError) as error:
        parts.campaigns.change_status(campaign_id, CampaignStatus.FAILED, str(error))
        raise
    _hold_if_too_many_fail(parts, campaign_id, check)
    manifest = parts.manifests.freeze(resolved)
    _register_exclusions(parts, manifest)
    return FrozenAudience(campaign, manifest, frozen_now=manifest.manifest_id == resolved.manifest_id)


def _hold_if_too_many_fail(parts: Parts, campaign_id: int, check: ContentCheck) -> None:
    limits = parts.content_errors
    if check.problem_share <= limits.share or check.expected_problem_rows < limits.minimum:
        return
    reason = (
        f"{check}. That is more than {limits.share:.2%}; mend the template or the leads and queue the campaign "
        f"again, or raise EMAIL_PLATFORM_CONTENT_ERROR_SHARE"
    )
    parts.campaigns.change_status(campaign_id, CampaignStatus.PAUSED, reason)
    raise ContentHeldError(campaign_id, reason)


def _register_exclusions(parts: Parts, manifest: Manifest) -> None:
    """Offer the excluded leads to the warehouse; the object never changes, so once is enough."""
    if manifest.excluded_rows == 0 or "exclusion" in parts.register.staged_rows(manifest.campaign_id):
        return
    key = excluded_key(manifest.prefix)
    digest = sha256()
    with parts.store.reader(key) as reader:
        while block := reader.read(1 << 20):
            digest.update(block)
    staged = StagedObject(key, "exclusion", manifest.excluded_rows, digest.hexdigest())
    parts.register.record(staged, manifest.campaign_id)
