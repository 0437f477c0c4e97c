"""What one only looks at: plan, report, recipients, why a lead was mailed or not, and the audit log."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.responses import Response

from email_platform.adapters.clickhouse.recipients import ReportsNotBuiltError
from email_platform.adapters.postgres.leads_now import PostgresLeadsNow
from email_platform.api.campaign_actions import plan
from email_platform.api.campaigns import seen_campaign
from email_platform.api.people import list_audit
from email_platform.api.problems import Refusal
from email_platform.api.reports import explain_lead, list_recipients
from email_platform.console.editing import found_lead
from email_platform.console.pages import HOME, framed, framed_document
from email_platform.console.visit import Visit
from email_platform.errors import CommandRefusedError, EmailPlatformError
from email_platform.reporting.campaign_report import campaign_report

_SAMPLES = 3
_PAGE_ROWS = 50


def show_plan(visit: Visit) -> Response:
    """What sending would mean; changes nothing."""
    found = plan(visit.campaign_id, visit.caller, visit.services, _SAMPLES)
    return visit.page("plan.html.j2", {"plan": found, "now": datetime.now(UTC)})


def show_report(visit: Visit) -> Response:
    """The page around the campaign's report."""
    campaign = seen_campaign(visit.services, visit.caller, visit.campaign_id)
    return visit.page("report.html.j2", {"campaign": campaign})


def report_document(visit: Visit) -> Response:
    """The report itself, for a frame; or in words why there is none."""
    seen_campaign(visit.services, visit.caller, visit.campaign_id)
    try:
        return framed_document(campaign_report(visit.services.reports.campaign(visit.campaign_id)))
    except CommandRefusedError:
        why = "There is no report of this campaign yet. It is made after the campaign was sent and loaded."
    except EmailPlatformError as failure:
        why = f"The report cannot be made now: {failure}"
    return framed("no_report.html.j2", {"why": why})


def show_recipients(visit: Visit) -> Response:
    """A page of the campaign's recipients with what became of them."""
    campaign = seen_campaign(visit.services, visit.caller, visit.campaign_id)
    status = visit.query("status")
    after = visit.query("after")
    path = f"{HOME}/campaigns/{campaign.campaign_id}/recipients"
    values = {"campaign": campaign, "status": status, "rows": (), "older": None, "why": "", "newest": path}
    try:
        found = list_recipients(
            campaign.campaign_id,
            visit.caller,
            visit.services,
            _PAGE_ROWS,
            visit.number("after"),
            status if status.replace("_", "").isalpha() and len(status) <= 50 else None,
        )
    except (Refusal, ReportsNotBuiltError):
        return visit.page("recipients.html.j2", {**values, "why": "There is no report of this campaign yet."})
    older = f"{path}?status={status}&after={found.next}" if found.next is not None else None
    return visit.page("recipients.html.j2", {**values, "rows": found.items, "older": older, "after": after})


def show_explanation(visit: Visit) -> Response:
    """Why a lead was mailed by the campaign, or was not."""
    campaign = seen_campaign(visit.services, visit.caller, visit.campaign_id)
    lead = visit.query("lead")
    found = problem = None
    if lead:
        try:
            lead_id = found_lead(visit, PostgresLeadsNow(visit.services.engine, visit.services.leads), lead)
            found = explain_lead(campaign.campaign_id, lead_id, visit.caller, visit.services)
        except Refusal as refused:
            problem = refused.problem.errors[0] if refused.problem.errors else None
            if problem is None:
                raise
    values = {"campaign": campaign, "lead": lead, "found": found, "problem": problem}
    return visit.page("explanation.html.j2", values, 422 if problem else 200)


def show_audit(visit: Visit) -> Response:
    """Who did what, by the API or here."""
    after = visit.query("after")
    found = list_audit(visit.caller, visit.services, _PAGE_ROWS, visit.number("after"))
    return visit.page("audit.html.j2", {"rows": found.items, "older": found.next, "after": after})
