"""Answers about campaigns and leads as JSON has them, for the command line and the HTTP API; datetimes beside."""

from __future__ import annotations

from typing import Any

from email_platform.runs.campaign_state import CampaignState
from email_platform.runs.explanation import AddressHistory, Explanation
from email_platform.runs.plan import CampaignPlan
from email_platform.runs.preview import CampaignPreview


def state_document(state: CampaignState, owner: str) -> dict[str, Any]:
    """A campaign's state as JSON has it."""
    campaign, totals, manifest = state.campaign, state.totals, state.manifest
    return {
        "campaign_id": campaign.campaign_id,
        "name": campaign.name,
        "status": campaign.status,
        "status_reason": campaign.status_reason,
        "version": campaign.version,
        "owner": owner,
        "sender_id": campaign.sender.sender_id,
        "from_address": campaign.sender.from_address,
        "account": state.account.account,
        "subject": campaign.content.subject_template,
        "html_bytes": len(campaign.content.html_template.encode()),
        "text_bytes": len(campaign.content.text_template.encode()),
        "mjml": campaign.content.mjml,
        "inline_css": campaign.content.inline_css,
        "condition": campaign.condition if isinstance(campaign.condition, dict | list) else str(campaign.condition),
        "on_unknown": campaign.on_unknown,
        "problem": campaign.problem,
        "created_at": campaign.created_at,
        "scheduled_at": campaign.scheduled_at,
        "queued_at": campaign.queued_at,
        "started_at": campaign.started_at,
        "finished_at": campaign.finished_at,
        "attempt": campaign.attempt,
        "frozen_at": manifest.frozen_at if manifest else None,
        "eligible": manifest.eligible_rows if manifest else None,
        "excluded_by_reason": (
            {str(reason): leads for reason, leads in manifest.excluded_by_reason.items()} if manifest else {}
        ),
        "accepted": totals.accepted,
        "rejected": totals.rejected,
        "unknown": totals.unknown + totals.in_call,
        "abandoned": totals.abandoned,
        "planned": totals.planned,
        "calls": sum(totals.calls_by_state.values()),
        "chunks": totals.chunks,
        "chunks_finished": totals.chunks_finished,
        "recipients_per_second": round(state.recipients_per_second, 1),
        "eta_seconds": None if state.eta_seconds is None else round(state.eta_seconds),
        "campaigns_before": state.account.campaigns_before,
        "waits_for": state.waiting.kind if state.waiting else None,
        "waits_because": state.waiting.what if state.waiting else None,
        "to_do": state.waiting.do if state.waiting else None,
    }


def preview_document(found: CampaignPreview) -> dict[str, Any]:
    """A preview as JSON has it."""
    manifest = found.manifest
    return {
        "campaign_id": found.campaign.campaign_id,
        "name": found.campaign.name,
        "status": found.campaign.status,
        "status_reason": found.campaign.status_reason,
        "considered": manifest.considered_rows,
        "eligible": manifest.eligible_rows,
        "excluded_by_reason": {str(reason): leads for reason, leads in manifest.excluded_by_reason.items()},
        "chunks": manifest.chunk_count,
        "calls": sum(-(-manifest.chunk_size_rows(at) // manifest.call_rows) for at in range(manifest.chunk_count)),
        "recipients_per_call": manifest.call_rows,
        "check": str(found.check),
        "other_types": None
        if found.other_types is None
        else [
            {"field": one.field, "compared": one.compared, "found": one.found, "leads": one.leads}
            for one in found.other_types
        ],
        "samples": [
            {
                "lead_id": message.lead_id,
                "problem": message.problem,
                "address": message.address,
                "subject": message.subject,
                "headers": dict(message.headers),
                "text": message.text,
                "html": message.html,
            }
            for message in found.samples
        ],
    }


def plan_document(planned: CampaignPlan) -> dict[str, Any]:
    """A plan as JSON has it, without its sample messages."""
    account = planned.account
    document = preview_document(planned.preview)
    del document["samples"]
    return {
        **document,
        "scheduled_at": planned.preview.campaign.scheduled_at,
        "account": account.account,
        "recipients_per_second": account.recipients_per_second,
        "calls_per_second": account.calls_per_second,
        "share": account.share,
        "campaigns_before": account.campaigns_before,
        "recipients_before": account.recipients_before,
        "uncounted_before": account.uncounted_before,
        "alone_seconds": planned.alone_seconds,
        "longest_seconds": planned.longest_seconds,
        "reviewed": planned.reviewed,
        "warnings": [{"warning": warning, "messages": count} for warning, count in planned.warnings.items()],
    }


def explanation_document(found: Explanation) -> dict[str, Any]:
    """An explanation as JSON has it."""
    return {
        "campaign_id": found.campaign_id,
        "lead_id": found.lead_id,
        "verdict": found.verdict,
        "summary": found.summary,
        "facts": [{"kind": fact.kind, "at": fact.at, "text": fact.text} for fact in found.facts],
    }


def history_document(history: AddressHistory) -> dict[str, Any]:
    """An address's history as JSON has it."""
    return {
        "address": history.address,
        "suppressions": [
            {"sender_id": one.sender_id, "reason": one.reason, "source": one.source, "created_at": one.created_at}
            for one in history.suppressions
        ],
        "leads": None
        if history.leads is None
        else [{"lead_id": one.lead_id, "unsubscribed_at": one.unsubscribed_at} for one in history.leads],
        "open_campaigns": [explanation_document(one) for one in history.open_campaigns],
        "emails": None
        if history.emails is None
        else [
            {
                "campaign_id": one.campaign_id,
                "lead_id": one.lead_id,
                "status": one.status,
                "error": one.error,
                "occurred_at": one.occurred_at,
                "is_old": one.is_old,
                "events": [event.type for event in one.events],
            }
            for one in history.emails
        ],
    }
