"""Step 2 of a campaign's run: send one chunk, then stage what became of its recipients.

Invariant: whatever ends the step, what the ledger knows of the chunk is staged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from threading import Event

import pyarrow as pa

from email_platform.audience.freeze import read_chunk
from email_platform.content.problem import ContentProblem
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.identity import call_id, message_id
from email_platform.domain.manifest import Manifest
from email_platform.domain.message import Skeleton
from email_platform.domain.ports import (
    BulkCall,
    Recipient,
)
from email_platform.errors import (
    AccountRefusedError,
    CampaignNotFoundError,
    CampaignStoppedError,
    ConfigurationError,
    IllegalTransitionError,
    InvalidTemplateError,
    LeaseLostError,
    ProviderDownError,
    SendingInterruptedError,
)
from email_platform.runs.parts import Parts, Renderer, find_manifest
from email_platform.runs.stage import stage_chunk
from email_platform.sending.chunk_delivery import ChunkDelivery, ChunkProgress, progress_of
from email_platform.sending.ledger import CONTENT_ERROR_CODE
from email_platform.sending.uninterrupted import run_to_the_end


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """What one step found and did in one chunk.

    Attributes:
        progress: recipients by outcome, over all runs; ``sent_calls`` of this step alone.
        seconds: how long this step worked on the chunk.
        staged_key: the object with the chunk's deliveries, or None where nothing was attempted.
    """

    chunk_index: int
    progress: ChunkProgress
    seconds: float
    staged_key: str | None


def send_chunk(
    parts: Parts,
    campaign_id: int,
    chunk_index: int,
    *,
    holder: str,
    stop: Event | None = None,
    on_progress: Callable[[ChunkProgress], None] = lambda _: None,
) -> ChunkReport:
    """Send what the ledger does not show as done, then stage what is known of every recipient.

    Raises:
        CampaignStoppedError, AccountRefusedError, ProviderDownError: what is known is staged; after the
            latter two the campaign is paused with the reason.
        LeaseLostError, ChunkBusyError, SendingInterruptedError: another process does it, or will.
    """
    began_seconds = time.monotonic()
    stop = stop or Event()
    manifest = find_manifest(parts, campaign_id)
    recipients = read_chunk(parts.store, manifest, chunk_index)
    if parts.ledger.chunk_is_finished(campaign_id, chunk_index):
        progress = progress_of(manifest, chunk_index, parts.ledger.calls(campaign_id, chunk_index))
        staged = stage_chunk(parts, manifest, chunk_index, recipients)
        return ChunkReport(chunk_index, progress, time.monotonic() - began_seconds, staged)
    renderer = parts.renderer(manifest)

    def build_call(call_index: int, offsets: Sequence[int]) -> BulkCall:
        skeleton, of_call = _rendered(renderer, manifest, recipients.take(list(offsets)))
        return BulkCall(
            call_id=call_id(campaign_id, chunk_index, call_index),
            campaign_id=campaign_id,
            from_address=manifest.sender.from_address,
            from_name=manifest.sender.from_name,
            reply_to=manifest.sender.reply_to,
            skeleton=skeleton,
            recipients=of_call,
            tags={"campaign_id": str(campaign_id)},
        )

    def screen(offsets: Sequence[int]) -> dict[int, str]:
        rows = recipients.take(list(offsets))
        leads = rows.column("lead_id").to_pylist()
        suppressed = parts.suppressions.suppressed(manifest.sender.sender_id, leads, rows.column("email").to_pylist())
        left_out = {
            offset: f"{CONTENT_ERROR_CODE}: {values.reason}"
            for offset, values in zip(offsets, renderer.render(manifest, rows).values, strict=True)
            if isinstance(values, ContentProblem)
        }
        return left_out | {
            offset: suppressed[lead] for offset, lead in zip(offsets, leads, strict=True) if lead in suppressed
        }

    async def deliver() -> ChunkProgress:
        provider = parts.provider(manifest.sender)
        try:
            return await ChunkDelivery(
                manifest,
                chunk_index,
                holder=holder,
                ledger=parts.ledger,
                provider=provider,
                build_call=build_call,
                clock=parts.clock,
                policy=parts.policy,
                limiter=parts.limiter(manifest.sender, campaign_id),
                screen=screen,
                stop=stop,
                on_progress=on_progress,
            ).run()
        finally:
            await provider.aclose()

    try:
        progress = run_to_the_end(deliver, stop)
    except (AccountRefusedError, ConfigurationError, ProviderDownError) as error:
        with suppress(IllegalTransitionError, CampaignNotFoundError):
            parts.campaigns.change_status(campaign_id, CampaignStatus.PAUSED, str(error))
        stage_chunk(parts, manifest, chunk_index, recipients)
        raise
    except (CampaignStoppedError, LeaseLostError, SendingInterruptedError):  # a fenced process may bring a late receipt
        stage_chunk(parts, manifest, chunk_index, recipients)
        raise
    except InvalidTemplateError as error:
        with suppress(IllegalTransitionError, CampaignNotFoundError):
            parts.campaigns.change_status(campaign_id, CampaignStatus.FAILED, str(error))
        raise
    staged = stage_chunk(parts, manifest, chunk_index, recipients)
    parts.campaigns.note_progress(campaign_id)
    return ChunkReport(chunk_index, progress, time.monotonic() - began_seconds, staged)


def _rendered(renderer: Renderer, manifest: Manifest, rows: pa.Table) -> tuple[Skeleton, tuple[Recipient, ...]]:
    """The campaign's skeleton and each row's values.

    Whoever cannot be rendered has been left out of a fresh call; a call that was sent before had none of them.
    """
    rendered = renderer.render(manifest, rows)
    recipients: list[Recipient] = []
    leads = zip(rows.column("lead_id").to_pylist(), rows.column("email").to_pylist(), rendered.values, strict=True)
    for lead_id, address, values in leads:
        if isinstance(values, ContentProblem):
            raise InvalidTemplateError(f"lead {lead_id} cannot be rendered: {values.reason}")
        recipients.append(Recipient(lead_id, message_id(manifest.campaign_id, lead_id), address, values))
    return rendered.skeleton, tuple(recipients)
