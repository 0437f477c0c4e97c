"""Before step 1: what a campaign would send now.

Invariant: a preview changes neither the campaign nor its manifest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pyarrow as pa

from email_platform.audience.freeze import read_chunk, resolve_audience
from email_platform.audience.source import OtherType
from email_platform.content.check import ContentCheck
from email_platform.content.prepare import prepared_content
from email_platform.content.problem import ContentProblem
from email_platform.content.render import RenderedRows
from email_platform.domain.campaigns import Campaign
from email_platform.domain.manifest import Manifest
from email_platform.domain.storage_layout import eligible_key, excluded_key
from email_platform.errors import CampaignArchivedError
from email_platform.runs.parts import Parts

COUNT_SECONDS = 20.0
"""How long leads with a value of another type are counted."""


@dataclass(frozen=True, slots=True)
class SampleMessage:
    """One recipient's message as it would be sent.

    Attributes:
        problem: why there is none; the texts are empty then.
    """

    lead_id: int
    address: str = field(repr=False)
    subject: str = ""
    html: str = ""
    text: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True, slots=True)
class CampaignPreview:
    """What a campaign would send now.

    Attributes:
        manifest: the counts of an audience that was resolved and thrown away.
        samples: the first recipients' messages, as they would be sent.
        other_types: leads that the condition passes over for the type of an attribute; None where counting them took
            too long. Empty for a frozen audience.
        check: how many recipients were looked at, and which of them cannot be rendered.
    """

    campaign: Campaign
    manifest: Manifest
    samples: tuple[SampleMessage, ...]
    check: ContentCheck
    other_types: tuple[OtherType, ...] | None = ()


def preview_campaign(parts: Parts, campaign_id: int, samples: int = 1) -> CampaignPreview:
    """Resolve the audience, check who cannot be rendered, render the first few, and forget it again.

    Changes neither the campaign nor its manifest; a campaign whose audience is frozen is previewed as it is frozen.

    Raises:
        CampaignNotFoundError: no such campaign.
        InvalidConditionError, InvalidTemplateError, ConfigurationError: what would fail the campaign.
    """
    campaign = parts.campaigns.get(campaign_id)
    frozen = parts.manifests.find(campaign_id)
    if frozen is not None and frozen.archived_at is not None:
        raise CampaignArchivedError(campaign_id, frozen.archived_at)  # the template that was sent lies in the bucket
    if frozen is None:
        campaign = replace(campaign, content=prepared_content(campaign.content))
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
        check = renderer.check(parts.store, manifest)
        messages: tuple[SampleMessage, ...] = ()
        if manifest.eligible_rows and samples:
            rows = read_chunk(parts.store, manifest, 0).slice(0, samples)
            messages = _messages(renderer.sample(manifest, rows), rows)
        others = parts.audience.other_types(campaign.condition, COUNT_SECONDS) if frozen is None else ()
        return CampaignPreview(campaign, manifest, messages, check, None if others is None else tuple(others))
    finally:
        if frozen is None:
            for key in (eligible_key(manifest.prefix), excluded_key(manifest.prefix)):
                parts.store.delete(key)


def _messages(rendered: RenderedRows, rows: pa.Table) -> tuple[SampleMessage, ...]:
    samples: list[SampleMessage] = []
    leads = zip(rows.column("lead_id").to_pylist(), rows.column("email").to_pylist(), rendered.values, strict=True)
    for lead_id, address, values in leads:
        if isinstance(values, ContentProblem):
            samples.append(SampleMessage(lead_id, address, problem=values.reason))
        else:
            message = rendered.skeleton.message(values)
            samples.append(
                SampleMessage(lead_id, address, message.subject, message.html, message.text, message.headers)
            )
    return tuple(samples)
