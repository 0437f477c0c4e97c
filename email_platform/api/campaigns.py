"""Campaigns: make, edit, look at, queue, pause, resume, cancel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Query
from sqlalchemy import Connection
from starlette.responses import Response

from email_platform.adapters.postgres.accounts import add_campaign
from email_platform.adapters.postgres.api_keys import Caller
from email_platform.adapters.postgres.drafts import PostgresDrafts
from email_platform.alerting.rules import operators_reason
from email_platform.api.campaign_models import (
    CampaignBody,
    CampaignContentDocument,
    CampaignDocument,
    CampaignEdit,
    CampaignPage,
    CampaignRow,
    CloneBody,
    Draft,
    QueueBody,
    ReasonBody,
)
from email_platform.api.idempotent import Name, made_once
from email_platform.api.problems import field_refusal
from email_platform.api.route import AnyCaller, Editor
from email_platform.api.services import Services, Work
from email_platform.api.values import After, CampaignId, Limit, api_router
from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.domain.local_time import scheduled_time
from email_platform.errors import CampaignNotFoundError, ConflictError
from email_platform.runs.campaign_state import campaign_state
from email_platform.runs.documents import state_document

router = api_router("/v1/campaigns", "campaigns")

_RESUMED = (CampaignStatus.PAUSED, CampaignStatus.FAILED, CampaignStatus.QUEUED)


def seen_campaign(services: Services, caller: Caller, campaign_id: int) -> Campaign:
    """The campaign, where the caller may see it; otherwise it is as if there were none."""
    campaign = services.parts.campaigns.get(campaign_id)
    if not caller.sees(campaign.owner_id):
        raise CampaignNotFoundError(campaign_id)
    return campaign


@router.get("", summary="List campaigns, the newest first")
def list_campaigns(
    caller: AnyCaller,
    services: Work,
    limit: Limit = 50,
    after: After = None,
    status: Annotated[CampaignStatus | None, Query(description="Only those with this status.")] = None,
) -> CampaignPage:
    """A page of the campaigns that the key may see; `next` is `after` of the next page."""
    rows = services.pages.campaigns(limit, after, caller.user_id, status)
    items = [CampaignRow.model_validate(row) for row in rows]
    return CampaignPage(items=items, next=items[-1].campaign_id if len(items) == limit else None)


@router.post("", summary="Make a campaign, as a draft", status_code=201, response_model=Draft)
def create_campaign(body: CampaignBody, caller: Editor, services: Work, name: Name) -> Response:
    """Make a draft: condition and templates are checked, nothing is sent."""
    return made_once(services, name, new_draft(services, caller, body))


def new_draft(services: Services, caller: Caller, body: CampaignBody) -> Callable[[Connection], Draft]:
    """Check all of it; what is returned makes the draft.

    Raises:
        Refusal, InvalidConditionError, InvalidTemplateError: says what is wrong where.
    """
    require_sender(services, caller, body.sender_id)
    new = body.checked()

    def make(connection: Connection) -> Draft:
        made = add_campaign(connection, new)
        return Draft(campaign_id=made, name=new.name, status=CampaignStatus.DRAFT, version=1)

    return make


@router.get("/{campaign_id}", summary="Show a campaign")
def show_campaign(campaign_id: CampaignId, caller: AnyCaller, services: Work) -> CampaignDocument:
    """Status, counts from the ledger, what it waits for and what to do."""
    return shown(services, seen_campaign(services, caller, campaign_id))


@router.get("/{campaign_id}/content", summary="Show what a campaign says")
def show_content(campaign_id: CampaignId, caller: AnyCaller, services: Work) -> CampaignContentDocument:
    """Everything that an edit may change, with the version that the edit is to name."""
    campaign = seen_campaign(services, caller, campaign_id)
    content = campaign.content
    return CampaignContentDocument(
        campaign_id=campaign_id,
        version=campaign.version,
        name=campaign.name,
        sender_id=campaign.sender.sender_id,
        subject=content.subject_template,
        html=content.html_template,
        text=content.text_template,
        condition=campaign.condition if isinstance(campaign.condition, dict | list) else str(campaign.condition),
        mjml=content.mjml,
        inline_css=content.inline_css,
        on_unknown=campaign.on_unknown,
        scheduled_at=campaign.scheduled_at,
    )


@router.put("/{campaign_id}", summary="Edit a draft")
def edit_campaign(campaign_id: CampaignId, body: CampaignEdit, caller: Editor, services: Work) -> Draft:
    """Put what you send in the place of what the draft says; 409 where somebody else has edited it since."""
    seen_campaign(services, caller, campaign_id)
    require_sender(services, caller, body.sender_id)
    version = PostgresDrafts(services.engine).edit(campaign_id, body.checked(), body.version)
    return Draft(campaign_id=campaign_id, name=body.name, status=CampaignStatus.DRAFT, version=version)


@router.post("/{campaign_id}/clone", summary="Copy a campaign", status_code=201, response_model=Draft)
def clone_campaign(campaign_id: CampaignId, body: CloneBody, caller: Editor, services: Work, name: Name) -> Response:
    """Make a draft that says what the campaign says, without its time and with an audience of its own."""
    return made_once(services, name, new_copy(services, caller, campaign_id, body))


def new_copy(services: Services, caller: Caller, campaign_id: int, body: CloneBody) -> Callable[[Connection], Draft]:
    """What makes the copy of a campaign that the caller may see."""
    seen_campaign(services, caller, campaign_id)

    def make(connection: Connection) -> Draft:
        made, called = PostgresDrafts.clone_in(connection, campaign_id, body.name)
        return Draft(campaign_id=made, name=called, status=CampaignStatus.DRAFT, version=1)

    return make


@router.post("/{campaign_id}/queue", summary="Queue a campaign")
def queue_campaign(
    campaign_id: CampaignId, caller: Editor, services: Work, body: QueueBody | None = None
) -> CampaignDocument:
    """Have a draft, paused or failed campaign sent when its time has come; safe to repeat."""
    seen_campaign(services, caller, campaign_id)
    if body is not None and body.at is not None:
        services.parts.campaigns.schedule(campaign_id, scheduled_time(body.at))
    return _changed(services, campaign_id, CampaignStatus.QUEUED, None)


@router.post("/{campaign_id}/pause", summary="Pause a campaign")
def pause_campaign(
    campaign_id: CampaignId, caller: Editor, services: Work, body: ReasonBody | None = None
) -> CampaignDocument:
    """Stop it between two calls; calls in flight are seen to their end. Safe to repeat."""
    seen_campaign(services, caller, campaign_id)
    return _changed(services, campaign_id, CampaignStatus.PAUSED, operators_reason((body or ReasonBody()).reason))


@router.post("/{campaign_id}/resume", summary="Resume a campaign")
def resume_campaign(campaign_id: CampaignId, caller: Editor, services: Work) -> CampaignDocument:
    """Queue a paused or failed campaign again; it goes on where it stopped. Safe to repeat."""
    campaign = seen_campaign(services, caller, campaign_id)
    if campaign.status not in _RESUMED:
        raise ConflictError(f"campaign {campaign_id} is {campaign.status}: there is nothing to resume")
    return _changed(services, campaign_id, CampaignStatus.QUEUED, None)


@router.post("/{campaign_id}/cancel", summary="Cancel a campaign")
def cancel_campaign(
    campaign_id: CampaignId, caller: Editor, services: Work, body: ReasonBody | None = None
) -> CampaignDocument:
    """End it for good, between two calls. Safe to repeat."""
    seen_campaign(services, caller, campaign_id)
    return _changed(services, campaign_id, CampaignStatus.CANCELLED, operators_reason((body or ReasonBody()).reason))


def shown(services: Services, campaign: Campaign) -> CampaignDocument:
    """The campaign as it is now."""
    state = campaign_state(services.parts, services.accounts, campaign.campaign_id)
    return CampaignDocument.model_validate(state_document(state, services.accounts.owner_email(campaign)))


def require_sender(services: Services, caller: Caller, sender_id: int) -> None:
    """Refuse a sender that the caller may not use, as one that is not there.

    Raises:
        Refusal: names the field.
    """
    owner_id = services.pages.sender_owner(sender_id)
    if owner_id is None or not caller.sees(owner_id):
        raise field_refusal(
            "body.sender_id", f"there is no sender {sender_id}", "GET /v1/senders lists the senders that you may use."
        )


def _changed(services: Services, campaign_id: int, wanted: CampaignStatus, reason: str | None) -> CampaignDocument:
    return shown(services, services.parts.campaigns.change_status(campaign_id, wanted, reason))
