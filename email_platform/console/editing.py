"""Making and editing campaigns, with the message as a lead would get it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from starlette.responses import Response

from email_platform.adapters.postgres.accounts import PostgresAccounts
from email_platform.adapters.postgres.leads_now import PostgresLeadsNow
from email_platform.api.campaign_models import CampaignBody, CampaignContentDocument, CampaignEdit
from email_platform.api.campaigns import edit_campaign, new_draft, require_sender, seen_campaign, show_content
from email_platform.api.problems import FieldProblem, field_refusal
from email_platform.console.forms import ANYBODY, ZONES, campaign_fields, field_problems_of, typed_fields, whole_number
from email_platform.console.pages import framed, see_other
from email_platform.console.visit import Visit, refusal_of
from email_platform.domain.addresses import normalised_address
from email_platform.domain.campaigns import Campaign, CampaignContent, CampaignStatus
from email_platform.errors import CommandRefusedError, ConflictError, InvalidTemplateError
from email_platform.runs.preview import SampleMessage
from email_platform.runs.trial import message_as_lead

_MOST_SENDERS = 1000
_UNSAVED = 0  # no row has this id
_SHOWN = ("name", "sender_id", "subject", "html", "text", "condition", "mjml", "inline_css", "on_unknown", "at")
_BLANK: dict[str, str] = {"condition": ANYBODY, "on_unknown": "hold", "zone": "UTC"}


def show_new(visit: Visit) -> Response:
    """An empty form."""
    return _form(visit, None, _BLANK)


def create(visit: Visit) -> Response:
    """Make the draft, or show the form again with what is wrong."""
    try:
        make = new_draft(visit.services, visit.caller, CampaignBody(**campaign_fields(visit.form)))
    except Exception as failure:
        return _form(visit, None, visit.form, field_problems_of(failure))
    return see_other(f"/campaigns/{visit.made(make)['campaign_id']}")


def show_edit(visit: Visit) -> Response:
    """A draft's form."""
    campaign = seen_campaign(visit.services, visit.caller, visit.campaign_id)
    if campaign.status is not CampaignStatus.DRAFT:
        raise ConflictError(f"campaign {campaign.campaign_id} is {campaign.status}, and only a draft can be edited")
    return _form(visit, campaign.campaign_id, typed_fields(_content(visit)))


def edit(visit: Visit) -> Response:
    """Save the draft, or show the form again with what is wrong, or with what somebody else has saved since."""
    campaign_id = visit.campaign_id
    seen_campaign(visit.services, visit.caller, campaign_id)
    try:
        fields = campaign_fields(visit.form)
        version = whole_number(visit.form, "version", "the version that the page was loaded with")
        edit_campaign(campaign_id, CampaignEdit(**fields, version=version), visit.caller, visit.services)
    except ConflictError:
        return _conflict(visit)
    except Exception as failure:
        return _form(visit, campaign_id, visit.form, field_problems_of(failure))
    return see_other(f"/campaigns/{campaign_id}")


def _conflict(visit: Visit) -> Response:
    """The second editor's page: what he typed, where the saved one differs, and the choice to put his in its place."""
    content = _content(visit)
    campaign = seen_campaign(visit.services, visit.caller, visit.campaign_id)
    if campaign.status is not CampaignStatus.DRAFT:
        raise ConflictError(
            f"nothing was saved: campaign {visit.campaign_id} is {campaign.status} now, and only a draft can be edited"
        )
    saved = typed_fields(content)
    differs = [(name, saved.get(name, "")) for name in _SHOWN if saved.get(name, "") != visit.form.get(name, "")]
    typed = {**visit.form, "version": saved["version"]}
    return _form(visit, visit.campaign_id, typed, conflict=differs, status=409)


def _content(visit: Visit) -> CampaignContentDocument:
    return show_content(visit.campaign_id, visit.caller, visit.services)


def _form(
    visit: Visit,
    campaign_id: int | None,
    typed: Mapping[str, str],
    problems: Sequence[FieldProblem] = (),
    conflict: Sequence[tuple[str, str]] | None = None,
    status: int | None = None,
) -> Response:
    senders = visit.services.pages.senders(_MOST_SENDERS, 0, visit.caller.user_id)
    values: dict[str, Any] = {
        "campaign_id": campaign_id,
        "typed": typed,
        "problems": problems,
        "wrong": {one.field: one for one in reversed(problems)},
        "conflict": conflict,
        "senders": senders,
        "zones": ZONES,
    }
    return visit.page("edit.html.j2", values, status or (422 if problems else 200))


def show_preview(visit: Visit) -> Response:
    """The saved message as a lead would get it, for a frame."""
    return _preview(visit, seen_campaign(visit.services, visit.caller, visit.campaign_id), visit.query("lead"))


def preview_typed(visit: Visit) -> Response:
    """The message as the form has it now, not saved, for a frame."""
    campaign = seen_campaign(visit.services, visit.caller, visit.campaign_id)
    return _preview(visit, replace(campaign, content=_typed_content(visit.form)), visit.form.get("lead", "").strip())


def preview_new(visit: Visit) -> Response:
    """The same of a campaign that was never saved."""
    try:
        sender_id = whole_number(visit.form, "sender_id", "the id of a sender")
        require_sender(visit.services, visit.caller, sender_id)
    except Exception as failure:
        (problem, *_) = field_problems_of(failure)
        return framed("preview.html.j2", {"message": None, "problem": f"{problem.problem}. {problem.mend}"})
    (owned,) = PostgresAccounts(visit.services.engine).senders(sender_id)
    campaign = Campaign(
        campaign_id=_UNSAVED,
        owner_id=owned.sender.owner_id,
        name=visit.form.get("name", "").strip(),
        sender=owned.sender,
        content=_typed_content(visit.form),
        condition=None,
        status=CampaignStatus.DRAFT,
        status_reason=None,
        scheduled_at=None,
        attempt=0,
    )
    return _preview(visit, campaign, visit.form.get("lead", "").strip())


def _typed_content(form: Mapping[str, str]) -> CampaignContent:
    return CampaignContent(
        form.get("subject", ""), form.get("html", ""), form.get("text", ""), "mjml" in form, "inline_css" in form
    )


def _preview(visit: Visit, campaign: Campaign, lead: str) -> Response:
    """A message, or why there is none; what a frame shows is one or the other, never an error's page."""
    message: SampleMessage | None = None
    problem = ""
    leads = PostgresLeadsNow(visit.services.engine, visit.services.leads)
    try:
        message = message_as_lead(visit.services.parts, leads, campaign, found_lead(visit, leads, lead))
    except (CommandRefusedError, InvalidTemplateError) as refused:
        problem = str(refused)
    except Exception as failure:
        refusal = refusal_of(failure)
        problem = f"{refusal.problem.detail}. {refusal.problem.mend}"
    return framed("preview.html.j2", {"message": message, "problem": problem, "sender": campaign.sender})


def found_lead(visit: Visit, leads: PostgresLeadsNow, written: str) -> int:
    """The lead that was named by id, or by address where the caller may look leads up by it.

    Raises:
        Refusal: names the field.
    """
    if "@" in written and visit.caller.user_id is None:
        found = leads.with_address(normalised_address(written), 1)
        if not found:
            raise field_refusal("lead", "is the address of no lead", "Type another one, or a lead's id.")
        return found[0].lead_id
    return whole_number({"lead": written}, "lead", "the id of a lead")
