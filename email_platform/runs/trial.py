"""A campaign's message to one address of ours, through the real provider, before anybody else gets it.

Invariant: nothing of it is in the campaign's ledger, manifest or staged objects, and the provider gets no id of the
campaign or of a lead: no event about it counts for anybody. Its unsubscribe link belongs to nobody.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import Protocol
from uuid import uuid4

import pyarrow as pa

from email_platform.content.prepare import prepared_content
from email_platform.content.problem import ContentProblem
from email_platform.domain.campaigns import Campaign, Sender
from email_platform.domain.manifest import Manifest
from email_platform.domain.message import Skeleton
from email_platform.domain.ports import BulkCall, Recipient, RecipientResult
from email_platform.errors import CommandRefusedError
from email_platform.runs.parts import Parts
from email_platform.runs.preview import SampleMessage

SUBJECT_MARK = "[Test] "
HEADER = "X-Test-Message"
_NOBODY = 0  # as campaign and lead, for the provider: no row has this id


class LeadRows(Protocol):
    """Leads as a campaign would mail them."""

    def mailable_row(self, lead_id: int) -> pa.Table | None:
        """The lead's row as in a manifest (`email_platform.domain.manifest.ELIGIBLE_SCHEMA`); None without one."""
        ...


@dataclass(frozen=True, slots=True)
class Trial:
    """The provider's answer about the message."""

    result: RecipientResult
    subject: str = field(repr=False)


def send_trial(parts: Parts, leads: LeadRows, campaign_id: int, lead_id: int, address: str) -> Trial:
    """Send the campaign's message, as this lead would get it, to the address.

    Args:
        parts: the outside world.
        leads: where the lead's row is read.
        campaign_id: a campaign of any status; what it says now is sent, not what is frozen.
        lead_id: whose values are shown.
        address: who gets it, in the form that is mailed.

    Raises:
        CampaignNotFoundError: no such campaign.
        CommandRefusedError: no such lead, or no message can be made for it.
        InvalidTemplateError, ConfigurationError: what would fail the campaign.
        ProviderError: the provider refused, or gave no answer.
    """
    campaign = parts.campaigns.get(campaign_id)
    skeleton, values, _ = _rendered(parts, leads, campaign, lead_id)
    skeleton = _marked(skeleton, campaign_id)
    call = BulkCall(
        call_id=uuid4(),
        campaign_id=_NOBODY,
        from_address=campaign.sender.from_address,
        from_name=campaign.sender.from_name,
        reply_to=campaign.sender.reply_to,
        skeleton=skeleton,
        recipients=(Recipient(_NOBODY, str(uuid4()), address, values),),
        tags={"campaign_id": str(_NOBODY)},
    )
    (result,) = asyncio.run(_send(parts, call, campaign.sender))
    return Trial(result, skeleton.message(values).subject)


def message_as_lead(parts: Parts, leads: LeadRows, campaign: Campaign, lead_id: int) -> SampleMessage:
    """The message as this lead would get it; nothing is sent or kept, and its unsubscribe link belongs to nobody.

    Args:
        parts: the outside world.
        leads: where the lead's row is read.
        campaign: what it says counts, whether or not it is saved.
        lead_id: whose values are shown; the lead's address and whether it may be mailed do not matter.

    Raises:
        CommandRefusedError: no such lead, or no message can be made for it.
        InvalidTemplateError, ConfigurationError: what would fail the campaign.
    """
    skeleton, values, address = _rendered(parts, leads, campaign, lead_id)
    message = skeleton.message(values)
    return SampleMessage(lead_id, address, message.subject, message.html, message.text, message.headers)


def _rendered(parts: Parts, leads: LeadRows, campaign: Campaign, lead_id: int) -> tuple[Skeleton, tuple[str, ...], str]:
    """The campaign's skeleton, and the lead's values and address."""
    row = leads.mailable_row(lead_id)
    if row is None:
        raise CommandRefusedError(f"there is no lead {lead_id}")
    content = prepared_content(campaign.content)
    manifest = Manifest(
        campaign_id=campaign.campaign_id,
        manifest_id=uuid4(),
        prefix="",
        eligible_rows=1,
        excluded_by_reason={},
        chunk_rows=1,
        call_rows=1,
        sender=campaign.sender,
        content=content,
        on_unknown=campaign.on_unknown,
        frozen_at=parts.clock(),
    )
    rendered = parts.renderer(manifest).sample(manifest, row)
    (values,) = rendered.values
    if isinstance(values, ContentProblem):
        raise CommandRefusedError(f"lead {lead_id} gets no message: {values.reason}")
    return rendered.skeleton, values, row.column("email")[0].as_py()


def _marked(skeleton: Skeleton, campaign_id: int) -> Skeleton:
    return replace(
        skeleton,
        subject=(SUBJECT_MARK, *skeleton.subject),
        headers={**skeleton.headers, HEADER: (f"campaign {campaign_id}",)},
    )


async def _send(parts: Parts, call: BulkCall, sender: Sender) -> tuple[RecipientResult, ...]:
    provider = parts.provider(sender)
    try:
        return await provider.send(provider.encode(call))
    finally:
        await provider.aclose()
