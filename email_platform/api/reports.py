"""What became of a campaign's recipients: explained one by one, in pages, and as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from itertools import chain, islice
from typing import Annotated, Any, Literal

from fastapi import Query
from pydantic import BaseModel
from starlette.responses import Response, StreamingResponse

from email_platform.adapters.clickhouse.recipients import RECIPIENT_COLUMNS, ReportsNotBuiltError
from email_platform.adapters.postgres.api_keys import Caller
from email_platform.api.campaigns import seen_campaign
from email_platform.api.problems import Refusal
from email_platform.api.route import AnyCaller, SeesAll
from email_platform.api.services import Services, Work
from email_platform.api.values import LARGEST_ID, CampaignId, LeadId, Limit, api_router
from email_platform.events.suppression_csv import csv_line
from email_platform.runs.documents import explanation_document, history_document
from email_platform.runs.explain import explain, explain_address

router = api_router("/v1")

_EXPORT_ROWS = 1000
ExportFormat = Literal["csv", "ndjson"]
_MEDIA_TYPES: Mapping[ExportFormat, str] = {"csv": "text/csv; charset=utf-8", "ndjson": "application/x-ndjson"}


class Fact(BaseModel):
    """One line of a timeline; `at` null: true now, or without a time."""

    kind: str
    at: datetime | None
    text: str


class ExplanationDocument(BaseModel):
    """What became of one lead in one campaign, and what the answer rests on."""

    campaign_id: int
    lead_id: int
    verdict: str
    summary: str
    facts: list[Fact]


@router.get("/campaigns/{campaign_id}/leads/{lead_id}/explanation", tags=["explain"], summary="Explain one lead")
def explain_lead(campaign_id: CampaignId, lead_id: LeadId, caller: AnyCaller, services: Work) -> ExplanationDocument:
    """Why the lead was mailed by the campaign, or was not; also right while the campaign is sending."""
    if caller.user_id is not None:
        seen_campaign(services, caller, campaign_id)
    return ExplanationDocument.model_validate(
        explanation_document(explain(services.explain, campaign_id, lead_id)),
    )


class HistorySuppression(BaseModel):
    """A suppression of the address."""

    sender_id: int | None
    reason: str
    source: str
    created_at: datetime


class HistoryLead(BaseModel):
    """A lead that has the address now."""

    lead_id: int
    unsubscribed_at: datetime | None


class HistoryEmail(BaseModel):
    """An email of the warehouse, or a lead that a campaign left out."""

    campaign_id: int
    lead_id: int
    status: str
    error: str
    occurred_at: datetime
    is_old: bool
    events: list[str]


class HistoryDocument(BaseModel):
    """One address over all campaigns.

    Attributes:
        leads: null where searching took too long.
        emails: null where the warehouse does not answer.
    """

    address: str
    suppressions: list[HistorySuppression]
    leads: list[HistoryLead] | None
    open_campaigns: list[ExplanationDocument]
    emails: list[HistoryEmail] | None


@router.get("/addresses/history", tags=["explain"], summary="Show what is known of an address")
def address_history(
    caller: SeesAll,
    services: Work,
    address: Annotated[str, Query(min_length=1, max_length=320, pattern=r"^[^\x00]*[^\x00\s][^\x00]*$")],
    limit: Annotated[int, Query(ge=1, le=500, description="At most so many emails, the newest first.")] = 50,
) -> HistoryDocument:
    """Suppressions, leads and emails of an address, over all campaigns."""
    return HistoryDocument.model_validate(history_document(explain_address(services.explain, address, limit)))


class RecipientRow(BaseModel):
    """One recipient, as the report `campaign_recipients` has it."""

    lead_id: int
    email: str
    status: str
    outcome: str
    error: str
    provider_message_id: str
    occurred_at: datetime
    status_at: datetime
    delivered_at: datetime | None
    opened_at: datetime | None
    clicked_at: datetime | None
    bounced_at: datetime | None
    complained_at: datetime | None
    unsubscribed_at: datetime | None


class RecipientPage(BaseModel):
    """Recipients, by lead id; as current as the last refresh of the reports."""

    items: list[RecipientRow]
    next: int | None


@router.get("/campaigns/{campaign_id}/recipients", tags=["reports"], summary="Report on a campaign's recipients")
def list_recipients(
    campaign_id: CampaignId,
    caller: AnyCaller,
    services: Work,
    limit: Limit = 100,
    after: Annotated[int | None, Query(ge=0, le=LARGEST_ID, description="`next` of the page before.")] = None,
    status: Annotated[
        str | None, Query(max_length=50, pattern="^[a-z_]*$", description="Only those: sent, delivered, rejected …")
    ] = None,
) -> RecipientPage:
    """Recipients with what became of them; 404 while there is no report yet."""
    _require_visible(services, caller, campaign_id)
    try:
        rows = services.reports.recipients(campaign_id, -1 if after is None else after, limit, status)
    except ReportsNotBuiltError as missing:
        raise Refusal(404, str(missing), "Ask again when a campaign was sent.") from None
    if not rows and after is None:
        seen_campaign(services, caller, campaign_id)
    items = [RecipientRow.model_validate(row) for row in rows]
    return RecipientPage(items=items, next=items[-1].lead_id if len(items) == limit else None)


@router.get(
    "/campaigns/{campaign_id}/export",
    tags=["reports"],
    summary="Export a campaign's recipients",
    response_class=StreamingResponse,
    responses={200: {"description": "Every recipient.", "content": {"text/csv": {}, "application/x-ndjson": {}}}},
)
def export_recipients(
    campaign_id: CampaignId,
    caller: AnyCaller,
    services: Work,
    form: Annotated[ExportFormat, Query(alias="format", description="One line a recipient.")] = "csv",
) -> Response:
    """Every recipient, streamed. Where a part goes away half-way, the connection breaks off: ask again."""
    _require_visible(services, caller, campaign_id)
    rows = services.reports.all_recipients(campaign_id)
    try:
        first = list(islice(rows, 1))  # what can be refused is refused before the answer begins
    except ReportsNotBuiltError as missing:
        raise Refusal(404, str(missing), "Ask again when a campaign was sent.") from None
    if not first:
        seen_campaign(services, caller, campaign_id)
    lines = _csv(chain(first, rows)) if form == "csv" else _ndjson(chain(first, rows))
    return StreamingResponse(
        _blocks(lines),
        media_type=_MEDIA_TYPES[form],
        headers={"Content-Disposition": f'attachment; filename="campaign-{campaign_id}.{form}"'},
    )


def _require_visible(services: Services, caller: Caller, campaign_id: int) -> None:
    """A campaign of the old system, or a deleted one, has reports and no row: whoever sees all sees these too."""
    if caller.user_id is not None:
        seen_campaign(services, caller, campaign_id)


def _csv(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A spreadsheet runs no cell of it."""
    yield csv_line(RECIPIENT_COLUMNS)
    for row in rows:
        yield csv_line(_cell(value) for value in row.values())


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _ndjson(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(row, default=_cell, ensure_ascii=False) + "\n"


def _blocks(lines: Iterator[str]) -> Iterator[bytes]:
    """Fewer and larger pieces: each is handed from a thread to the event loop."""
    while block := "".join(islice(lines, _EXPORT_ROWS)):
        yield block.encode()
