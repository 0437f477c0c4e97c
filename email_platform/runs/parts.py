"""The outside world as a campaign's run needs it, one Protocol a part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import pyarrow as pa

from email_platform.audience.source import AudienceSource
from email_platform.content.check import ContentCheck
from email_platform.content.render import RenderedRows
from email_platform.domain.campaigns import Campaign, CampaignStore, Sender
from email_platform.domain.erasure import ErasedLookup, NobodyErased
from email_platform.domain.manifest import Manifest, ManifestStore
from email_platform.domain.ports import (
    Clock,
    EmailProvider,
    ObjectStore,
    ProviderLimits,
    SuppressionLookup,
)
from email_platform.errors import (
    CampaignArchivedError,
    CampaignStoppedError,
)
from email_platform.sending.ledger import CallLedger
from email_platform.sending.policy import DeliveryPolicy
from email_platform.sending.rate_limit import RateLimiter
from email_platform.staging.delivery_objects import StagingRegister
from email_platform.staging.dimensions import DimensionSource


class Renderer(Protocol):
    """Turns rows of a manifest into messages; deterministic."""

    def check(self, store: ObjectStore, manifest: Manifest) -> ContentCheck:
        """Which recipients cannot be rendered, with reasons.

        Raises:
            InvalidTemplateError: the template itself is at fault.
        """
        ...

    def sample(self, manifest: Manifest, rows: pa.Table) -> RenderedRows:
        """As `render`, for a few messages that nobody has checked.

        Raises:
            InvalidTemplateError: they cannot be rendered within the limits.
        """
        ...

    def begin(self, manifest: Manifest) -> None:
        """Do what takes long before the first `render`; `close` ends it.

        Raises:
            InvalidTemplateError: the template itself is at fault.
        """
        ...

    def render(self, manifest: Manifest, rows: pa.Table) -> RenderedRows:
        """One skeleton for all, and each row's values, in order.

        Raises:
            InvalidTemplateError: they cannot be rendered within the limits.
        """
        ...

    def close(self) -> None:
        """Free what `begin` took."""
        ...


@dataclass(frozen=True, slots=True)
class ContentErrorLimits:
    """How many recipients may be impossible to render before a campaign is paused instead of sent.

    Attributes:
        share: of the audience, between 0 and 1.
        minimum: fewer recipients than this never pause a campaign.
    """

    share: float = 0.01
    minimum: int = 20


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything a campaign's run needs of the outside world.

    Attributes:
        chunk_rows: eligible leads per chunk of the manifests frozen from now on.
        limits: what a sender's provider allows; known without connecting to it.
        provider: makes a client of a sender's provider; called inside the event loop that uses it.
        limiter: the rate limiter of a sender's provider account, for the campaign with this id.
        suppressions: asked again before each call.
        renderer: compiles the content of a campaign or of its manifest (InvalidTemplateError).
        content_errors: when content that fails for some recipients pauses the campaign.
        erased: asked before addresses are written into an object.
    """

    campaigns: CampaignStore
    manifests: ManifestStore
    audience: AudienceSource
    suppressions: SuppressionLookup
    ledger: CallLedger
    store: ObjectStore
    register: StagingRegister
    dimensions: DimensionSource
    clock: Clock
    policy: DeliveryPolicy
    chunk_rows: int
    limits: Callable[[Sender], ProviderLimits]
    provider: Callable[[Sender], EmailProvider]
    limiter: Callable[[Sender, int], RateLimiter]
    renderer: Callable[[Campaign | Manifest], Renderer]
    content_errors: ContentErrorLimits = ContentErrorLimits()
    erased: ErasedLookup = field(default_factory=NobodyErased)


def find_manifest(parts: Parts, campaign_id: int) -> Manifest:
    """The campaign's frozen audience, also of a campaign whose ledger is archived.

    Raises:
        CampaignStoppedError: it has none.
    """
    manifest = parts.manifests.find(campaign_id)
    if manifest is None:
        raise CampaignStoppedError(campaign_id, "without a frozen audience")
    return manifest


def manifest_with_ledger(parts: Parts, campaign_id: int) -> Manifest:
    """The campaign's frozen audience, for whoever sends or decides by its ledger.

    Raises:
        CampaignArchivedError: its ledger is archived.
        CampaignStoppedError: it has no manifest.
    """
    manifest = find_manifest(parts, campaign_id)
    if manifest.archived_at is not None:
        raise CampaignArchivedError(campaign_id, manifest.archived_at)
    return manifest
