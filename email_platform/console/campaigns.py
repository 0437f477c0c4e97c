"""The list of campaigns, and one campaign: how far it is, and what is done with it."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from starlette.responses import Response

from email_platform.api.campaign_actions import sent_once
from email_platform.api.campaign_models import CampaignDocument, CloneBody, QueueBody, ReasonBody, TrialBody
from email_platform.api.campaigns import (
    cancel_campaign,
    new_copy,
    pause_campaign,
    queue_campaign,
    resume_campaign,
    seen_campaign,
    shown,
)
from email_platform.api.problems import field_refusal
from email_platform.api.services import Services
from email_platform.console.forms import ZONES, moment_of, whole_number
from email_platform.console.pages import HOME, see_other
from email_platform.console.visit import Visit
from email_platform.domain.campaigns import LEGAL_TRANSITIONS, CampaignStatus
from email_platform.runs.campaign_state import ENDED
from email_platform.runs.unknown import decide_unknown_calls

LIST_ROWS = 30
_MOST_USERS = 500
_MOST_COUNTED = 10
_LIST_SECONDS = 5
_ENDED_POLLING = 286  # htmx asks no more after this status ("Load Polling" in its documentation)


def list_campaigns(visit: Visit) -> Response:
    """A page of the campaigns that the caller may see, the newest first."""
    users = visit.services.pages.users(_MOST_USERS, 0, visit.caller.user_id)
    values = _listed(visit) | {"users": users, "statuses": list(CampaignStatus)}
    return visit.page("campaigns.html.j2", values)


def list_rows(visit: Visit) -> Response:
    """The same page's table alone, as it is now."""
    return visit.page("_campaign_rows.html.j2", _listed(visit))


def _listed(visit: Visit) -> dict[str, Any]:
    filters = {name: visit.query(name) for name in ("status", "owner", "name", "after")}
    wanted = filters["status"] if filters["status"] in set(CampaignStatus) else ""
    filters["status"] = wanted
    owner, after = visit.number("owner"), visit.number("after")
    mine = visit.caller.user_id
    rows = visit.services.pages.campaigns(
        LIST_ROWS + 1,
        after,
        owner if mine is None else mine,
        CampaignStatus(wanted) if wanted else None,
        filters["name"][:200],
    )
    kept = {name: value for name, value in filters.items() if value and name != "after"}
    shown_rows = rows[:LIST_ROWS]
    older = None
    if len(rows) > LIST_ROWS:
        older = f"{HOME}/?{urlencode({**kept, 'after': shown_rows[-1]['campaign_id']})}"
    this = urlencode({**kept, **({"after": after} if after else {})})
    return {
        "rows": _with_progress(visit.services, shown_rows),
        "filters": filters,
        "older": older,
        "newest": f"{HOME}/?{urlencode(kept)}" if after else None,
        "rows_url": f"{HOME}/rows?{this}",
        "every_seconds": _LIST_SECONDS,
    }


def _with_progress(services: Services, rows: Any) -> list[dict[str, Any]]:
    """The rows, with how far those are that are sending: of a few, since each costs a look at its ledger."""
    counted = [row["campaign_id"] for row in rows if row["status"] == CampaignStatus.SENDING][:_MOST_COUNTED]
    progress: dict[int, float] = {}
    for campaign_id in counted:
        manifest = services.parts.manifests.find(campaign_id)
        if manifest is not None and manifest.eligible_rows:
            progress[campaign_id] = services.parts.ledger.totals(campaign_id).ended / manifest.eligible_rows
    return [{**row, "progress": progress.get(row["campaign_id"])} for row in rows]


def show_campaign(visit: Visit) -> Response:
    """One campaign: how far it is, what it waits for, what can be done."""
    document = _document(visit)
    return visit.page("campaign.html.j2", campaign_values(visit, document))


def show_progress(visit: Visit) -> Response:
    """The part of the page that changes by itself; with the buttons where the status has changed."""
    document = _document(visit)
    values = campaign_values(visit, document) | {"has_changed": visit.query("seen") != document.status}
    ended = document.status in ENDED and not values["has_changed"]
    return visit.page("_progress_answer.html.j2", values, _ENDED_POLLING if ended else 200)


def _document(visit: Visit) -> CampaignDocument:
    return shown(visit.services, seen_campaign(visit.services, visit.caller, visit.campaign_id))


def campaign_values(visit: Visit, document: CampaignDocument) -> dict[str, Any]:
    """What the campaign's page and its parts show."""
    status = CampaignStatus(document.status)
    allowed = LEGAL_TRANSITIONS[status]
    known = document.accepted + document.rejected + document.unknown + document.abandoned
    return {
        "campaign": document,
        "done": known,
        "done_share": known / document.eligible if document.eligible else None,
        "ended": status in ENDED,
        "can_edit": status is CampaignStatus.DRAFT,
        "can_queue": status in (CampaignStatus.DRAFT, CampaignStatus.PAUSED, CampaignStatus.FAILED),
        "is_draft": status is CampaignStatus.DRAFT,
        "can_pause": CampaignStatus.PAUSED in allowed,
        "can_cancel": CampaignStatus.CANCELLED in allowed,
        "zones": ZONES,
        # Its advice names commands; what can be done here has a button.
        "advice": document.to_do if document.waits_for in ("launch", "run") else None,
    }


def queue(visit: Visit) -> Response:
    """Have the campaign sent now, or when its time has come."""
    body = QueueBody(at=moment_of(visit.form))
    queue_campaign(visit.campaign_id, visit.caller, visit.services, body)
    return _back(visit)


def pause(visit: Visit) -> Response:
    """Stop it between two calls."""
    pause_campaign(visit.campaign_id, visit.caller, visit.services, _reason(visit))
    return _back(visit)


def resume(visit: Visit) -> Response:
    """Let it go on."""
    resume_campaign(visit.campaign_id, visit.caller, visit.services)
    return _back(visit)


def cancel(visit: Visit) -> Response:
    """End it for good."""
    if visit.form.get("sure") != "yes":
        raise field_refusal("sure", "is not ticked", "Tick it: a cancelled campaign is never sent again.")
    cancel_campaign(visit.campaign_id, visit.caller, visit.services, _reason(visit))
    return _back(visit)


def copy(visit: Visit) -> Response:
    """Make a draft that says what the campaign says."""
    make = new_copy(visit.services, visit.caller, visit.campaign_id, CloneBody())
    return see_other(f"/campaigns/{visit.made(make)['campaign_id']}")


def send_test(visit: Visit) -> Response:
    """Send the message, as one lead would get it, to an address of one's own; shows the provider's answer."""
    body = TrialBody(
        to=visit.form.get("to", "").strip(), as_lead=whole_number(visit.form, "as_lead", "the id of a lead")
    )
    answer, is_replay = sent_once(visit.services, visit.caller, visit.campaign_id, body, visit.name())
    return visit.page(
        "test.html.j2", {"campaign": _document(visit), "answer": answer, "is_replay": is_replay, "to": body.to}
    )


def show_unknown(visit: Visit) -> Response:
    """The calls that got no answer, and the two ways to decide them."""
    document = _document(visit)
    calls = list(visit.services.parts.ledger.unknown_calls(document.campaign_id))
    return visit.page("unknown.html.j2", {"campaign": document, "calls": calls})


def decide_unknown(visit: Visit) -> Response:
    """Abandon or resend them."""
    seen_campaign(visit.services, visit.caller, visit.campaign_id)
    decision = visit.form.get("decision")
    if decision not in ("abandon", "resend"):
        raise field_refusal("decision", "is not chosen", "Choose one of the two.")
    decided = decide_unknown_calls(
        visit.services.parts, visit.campaign_id, "abandon" if decision == "abandon" else "resend"
    )
    return visit.page("decided.html.j2", {"campaign": _document(visit), "decision": decision, "decided": decided})


def _reason(visit: Visit) -> ReasonBody:
    given = visit.form.get("reason", "").strip()
    return ReasonBody(reason=given or f"by {visit.caller.name} in the console")


def _back(visit: Visit) -> Response:
    return see_other(f"/campaigns/{visit.campaign_id}")
