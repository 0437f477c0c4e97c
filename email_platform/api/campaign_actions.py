"""What takes longer with one campaign: plan it, send a test message, watch it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated

from fastapi import Depends, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from email_platform.adapters.postgres.api_keys import Caller
from email_platform.adapters.postgres.api_requests import RequestName
from email_platform.adapters.postgres.leads_now import PostgresLeadsNow
from email_platform.api.campaign_models import CampaignDocument, PlanDocument, TrialBody, TrialDocument
from email_platform.api.campaigns import seen_campaign
from email_platform.api.idempotent import REPLAYED, Name
from email_platform.api.route import AnyCaller, Editor
from email_platform.api.services import Services, Work
from email_platform.api.values import CampaignId, api_router
from email_platform.errors import (
    AccountRefusedError,
    CallOutcomeUnknownError,
    CallRejectedError,
    CampaignNotFoundError,
    PartUnavailableError,
)
from email_platform.runs.campaign_state import watch_campaign
from email_platform.runs.documents import plan_document, preview_document, state_document
from email_platform.runs.plan import plan_campaign
from email_platform.runs.trial import send_trial

router = api_router("/v1/campaigns", "campaigns")

_LONGEST_WATCH_SECONDS = 3600.0


@router.get("/{campaign_id}/plan", summary="Say what sending would mean")
def plan(
    campaign_id: CampaignId,
    caller: AnyCaller,
    services: Work,
    samples: Annotated[int, Query(ge=0, le=20, description="How many sample messages.")] = 1,
) -> PlanDocument:
    """Recipients, who is left out, calls, time, and what may be wrong; sends nothing and changes nothing."""
    seen_campaign(services, caller, campaign_id)
    planned = plan_campaign(services.parts, services.accounts, campaign_id, samples)
    messages = preview_document(planned.preview)["samples"][:samples]
    return PlanDocument.model_validate({**plan_document(planned), "samples": messages})


@router.post("/{campaign_id}/test", summary="Send a test message", response_model=TrialDocument)
def send_test(campaign_id: CampaignId, body: TrialBody, caller: Editor, services: Work, name: Name) -> Response:
    """Send the message, as one lead would get it, to an address of yours, through the campaign's provider.

    It is marked in subject and headers, counts for nobody, and its unsubscribe link belongs to nobody.
    """
    document, is_replay = sent_once(services, caller, campaign_id, body, name)
    return JSONResponse(document.model_dump(mode="json"), headers={REPLAYED: "true"} if is_replay else None)


def sent_once(
    services: Services, caller: Caller, campaign_id: int, body: TrialBody, name: RequestName
) -> tuple[TrialDocument, bool]:
    """Send the test message, or give what an equal request was answered; says whether it is that."""
    seen_campaign(services, caller, campaign_id)
    kept = services.requests.begin(name)
    if kept is not None:
        return TrialDocument.model_validate(kept[1]), True
    try:
        document = _sent(services, campaign_id, body)
    except Exception:
        services.requests.abandon(name)
        raise
    services.requests.end(name, 200, document.model_dump(mode="json"))
    return document, False


def _sent(services: Services, campaign_id: int, body: TrialBody) -> TrialDocument:
    """The provider's answer; what is raised means that certainly nothing was sent."""
    try:
        trial = send_trial(
            services.parts, PostgresLeadsNow(services.engine, services.leads), campaign_id, body.as_lead, body.to
        )
    except CallOutcomeUnknownError as unknown:
        return _trial(campaign_id, "unknown", str(unknown))
    except (CallRejectedError, AccountRefusedError) as refused:
        return _trial(campaign_id, "rejected", str(refused))
    result = trial.result
    words = ": ".join(part for part in (result.error_code, result.error_message) if part)
    status = "accepted" if result.status == "accepted" else "rejected"
    return TrialDocument.model_validate(
        {
            "campaign_id": campaign_id,
            "status": status,
            "subject": trial.subject,
            "provider_message_id": result.provider_message_id or "",
            "error": words,
        }
    )


def _trial(campaign_id: int, status: str, error: str) -> TrialDocument:
    return TrialDocument.model_validate(
        {"campaign_id": campaign_id, "status": status, "subject": "", "provider_message_id": "", "error": error}
    )


def _looker(campaign_id: CampaignId, caller: AnyCaller, services: Work) -> Callable[[], CampaignDocument | None]:
    """Gives the campaign's state at each call, and None behind its end; the first look is before the answer begins."""
    campaign = seen_campaign(services, caller, campaign_id)
    owner = services.accounts.owner_email(campaign)
    states = watch_campaign(services.parts, services.accounts, campaign_id, lambda: None)

    def look() -> CampaignDocument | None:
        state = next(states, None)
        return None if state is None else CampaignDocument.model_validate(state_document(state, owner))

    return look


@router.get(
    "/{campaign_id}/watch", summary="Watch a campaign by server-sent events", response_class=EventSourceResponse
)
async def watch(
    look: Annotated[Callable[[], CampaignDocument | None], Depends(_looker)],
    every_seconds: Annotated[float, Query(ge=0.2, le=60, description="Between two looks.")] = 1.0,
) -> AsyncIterator[ServerSentEvent]:
    """An event `state`, with the document of `GET /v1/campaigns/{campaign_id}`, for each change until the end.

    The last one is `end` where the campaign was sent, cancelled or has failed, `again` after an hour or where a part
    does not answer: then connect again.
    """
    until = time.monotonic() + _LONGEST_WATCH_SECONDS
    before: CampaignDocument | None = None
    while time.monotonic() < until:
        try:
            document = await run_in_threadpool(look)
        except PartUnavailableError as failure:
            yield ServerSentEvent(event="again", data={"why": str(failure)})
            return
        except CampaignNotFoundError as failure:
            yield ServerSentEvent(event="end", data={"why": str(failure)})
            return
        if document is None:
            yield ServerSentEvent(event="end", data={"why": f"the campaign is {before.status if before else 'gone'}"})
            return
        if before is None or _steady(document) != _steady(before):
            yield ServerSentEvent(event="state", data=document)
        before = document
        await asyncio.sleep(every_seconds)
    yield ServerSentEvent(event="again", data={"why": "an hour is over"})


def _steady(document: CampaignDocument) -> dict[str, object]:
    """What is a change where it differs: a new rate alone is none, nor the figures of a wait."""
    shown = document.model_dump(exclude={"recipients_per_second", "eta_seconds"})
    words = str(shown.pop("waits_because"))
    return {**shown, "waits_because": "".join(one for one in words if not one.isdigit())}
