"""Step 2 of a campaign's run: send one chunk, then stage what became of its recipients.

Invariant: whatever ends the step, what the ledger knows of the chunk is staged.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from threading import Event
from uuid import UUID

import pyarrow as pa

from email_platform.audience.freeze import read_chunk
from email_platform.content.problem import ContentProblem
from email_platform.domain.campaigns import CampaignStatus
from email_platform.domain.identity import message_id_texts
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
    OneRecipientRefusedError,
    ProviderDownError,
    SendingInterruptedError,
    TooManyRejectedError,
)
from email_platform.runs.parts import Parts, manifest_with_ledger
from email_platform.runs.stage import stage_chunk
from email_platform.sending.call_writing import Mailing, RenderedCall
from email_platform.sending.chunk_delivery import ChunkDelivery
from email_platform.sending.ledger_session import ChunkWork
from email_platform.sending.progress import ChunkProgress, progress_of
from email_platform.sending.runtime import Runtime
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


def _rows_at(recipients: pa.Table, offsets: Sequence[int]) -> pa.Table:
    """The rows at these offsets; neighbours are not copied."""
    if offsets and list(offsets) == list(range(offsets[0], offsets[-1] + 1)):
        return recipients.slice(offsets[0], len(offsets))
    return recipients.take(list(offsets))


def _about_one_recipient(campaign_id: int, lead_id: int) -> str:
    """What an operator can do where nobody else is left who would show whether the sender is refused."""
    return (
        f". It is lead {lead_id}. If the provider takes the sender's other mail, the refusal is about this address: "
        f"find it with `email-platform explain --campaign {campaign_id} --lead {lead_id}`, leave it out with "
        f"`email-platform suppression add`, and resume"
    )


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
        CampaignStoppedError, AccountRefusedError, ProviderDownError, TooManyRejectedError: what is known is staged;
            after all but the first the campaign is paused with the reason.
        InvalidTemplateError: what is known is staged; the campaign is set to failed with the reason.
        LeaseLostError, ChunkBusyError, SendingInterruptedError: another process does it, or will.
    """
    began_seconds = time.monotonic()
    stop = stop or Event()
    manifest = manifest_with_ledger(parts, campaign_id)
    recipients = read_chunk(parts.store, manifest, chunk_index)
    if parts.ledger.chunk_is_finished(campaign_id, chunk_index):
        progress = progress_of(manifest, chunk_index, parts.ledger.calls(campaign_id, chunk_index))
        staged = stage_chunk(parts, manifest, chunk_index, recipients)
        return ChunkReport(chunk_index, progress, time.monotonic() - began_seconds, staged)
    renderer = parts.renderer(manifest)

    def render(call_id: UUID, offsets: Sequence[int]) -> RenderedCall:
        rows = _rows_at(recipients, offsets)
        rendered = renderer.render(manifest, rows)
        lead_ids = rows.column("lead_id").to_pylist()
        ids = message_id_texts(campaign_id, lead_ids)
        mailed: list[Recipient] = []
        problems: dict[int, str] = {}
        for offset, lead_id, message_id, address, values in zip(
            offsets, lead_ids, ids, rows.column("email").to_pylist(), rendered.values, strict=True
        ):
            if isinstance(values, ContentProblem):
                problems[offset] = values.reason
            else:
                mailed.append(Recipient(lead_id, message_id, address, values))
        call = BulkCall(
            call_id=call_id,
            campaign_id=campaign_id,
            from_address=manifest.sender.from_address,
            from_name=manifest.sender.from_name,
            reply_to=manifest.sender.reply_to,
            skeleton=rendered.skeleton,
            recipients=tuple(mailed),
            tags={"campaign_id": str(campaign_id)},
        )
        return RenderedCall(call, problems)

    def screen(offsets: Sequence[int]) -> dict[int, str]:
        rows = _rows_at(recipients, offsets)
        leads = rows.column("lead_id").to_pylist()
        suppressed = parts.suppressions.suppressed(manifest.sender.sender_id, leads, rows.column("email").to_pylist())
        return {offset: suppressed[lead] for offset, lead in zip(offsets, leads, strict=True) if lead in suppressed}

    async def deliver() -> ChunkProgress:
        provider = parts.provider(manifest.sender)
        try:
            return await ChunkDelivery(
                ChunkWork(manifest, chunk_index, holder),
                parts.ledger,
                Mailing(provider, render, screen),
                parts.policy,
                limiter=parts.limiter(manifest.sender, campaign_id),
                stop=stop,
                on_progress=on_progress,
                runtime=Runtime(clock=parts.clock),
            ).run()
        finally:
            await provider.aclose()

    try:
        with closing(renderer):
            renderer.begin(manifest)
            progress = run_to_the_end(deliver, stop)
    except (AccountRefusedError, ConfigurationError, ProviderDownError, TooManyRejectedError) as error:
        with suppress(IllegalTransitionError, CampaignNotFoundError):
            reason = str(error)
            if isinstance(error, OneRecipientRefusedError):
                reason += _about_one_recipient(campaign_id, recipients["lead_id"][error.offset].as_py())
            parts.campaigns.change_status(campaign_id, CampaignStatus.PAUSED, reason)
        stage_chunk(parts, manifest, chunk_index, recipients)
        raise
    except (CampaignStoppedError, LeaseLostError, SendingInterruptedError):  # a fenced process may bring a late receipt
        stage_chunk(parts, manifest, chunk_index, recipients)
        raise
    except InvalidTemplateError as error:  # nobody can be sent this content
        with suppress(IllegalTransitionError, CampaignNotFoundError):
            parts.campaigns.change_status(campaign_id, CampaignStatus.FAILED, str(error))
        stage_chunk(parts, manifest, chunk_index, recipients)
        raise
    staged = stage_chunk(parts, manifest, chunk_index, recipients)
    parts.campaigns.note_progress(campaign_id)
    return ChunkReport(chunk_index, progress, time.monotonic() - began_seconds, staged)
