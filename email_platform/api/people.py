"""Leads, suppressions and the audit log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection
from starlette.responses import Response

from email_platform.adapters.postgres.api_keys import Caller
from email_platform.adapters.postgres.erased import erasure_key
from email_platform.adapters.postgres.events import suppress
from email_platform.adapters.postgres.lead_import import upsert_leads
from email_platform.api.campaigns import require_sender
from email_platform.api.idempotent import Name, made_once
from email_platform.api.problems import field_refusal
from email_platform.api.route import AnyCaller, Editor, Operator
from email_platform.api.services import Services, Work
from email_platform.api.values import After, Id, Limit, Strict, Text, api_router
from email_platform.audience.conditions.fields import ATTRIBUTE_FIELD, ATTRIBUTE_PREFIX
from email_platform.audience.lead_file import LEAD_COLUMNS, WAS_ERASED, ImportedLead, LeadFile
from email_platform.domain.addresses import normalised_address
from email_platform.domain.odd_rows import MAX_ATTRIBUTES_BYTES
from email_platform.domain.suppression_reasons import SuppressionReason
from email_platform.events.suppression_csv import CsvProblem, csv_line, parse_csv

router = api_router("/v1")

MOST_LEADS = 10_000
_EXAMPLE_LEAD: dict[str, Any] = {
    "email": "ada@example.com",
    "own_key": "crm-17",
    "first_name": "Ada",
    "attributes": {"orders": 3},
}
_Word = Annotated[str, Field(max_length=1000)]


class LeadBody(Strict):
    """One lead; what is left out is not changed, and attributes that are not named stay.

    A lead is found by `own_key`, otherwise by its address.
    """

    email: _Word
    own_key: _Word | None = None
    first_name: _Word | None = None
    last_name: _Word | None = None
    country: Annotated[_Word | None, Field(description="Two letters, ISO 3166-1.")] = None
    city: _Word | None = None
    plan: _Word | None = None
    language: _Word | None = None
    age: int | None = None
    attributes: dict[str, str | int | float | bool | None] = {}


class LeadsBody(Strict):
    """Up to 10,000 leads; thousands at once cost hardly more than one, since each request reads the table once."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"leads": [_EXAMPLE_LEAD]}]})

    leads: Annotated[list[LeadBody], Field(min_length=1, max_length=MOST_LEADS)]


class RejectedLead(BaseModel):
    """A lead that was left out; `index` counts from 0."""

    index: int
    problem: str


class LeadsDocument(BaseModel):
    """What became of the leads.

    Attributes:
        changed: leads that had the key or the address; more than one may have the same address.
        repeated: indexes of those whose address or key an earlier one has; they were left out.
    """

    added: int
    changed: int
    repeated: list[int]
    rejected: list[RejectedLead]


@router.post("/leads", tags=["leads"], summary="Add and change leads", response_model=LeadsDocument)
def upsert(body: LeadsBody, caller: Operator, services: Work, name: Name) -> Response:
    """Add leads that are new and change those that are there; a lead that cannot be kept stops no other."""
    services.leads.require_ours()
    rejected: list[RejectedLead] = []
    kept: list[ImportedLead] = []
    for index, one in enumerate(body.leads):
        read = _read(index, one)
        if isinstance(read, ImportedLead):
            kept.append(read)
        else:
            rejected.append(RejectedLead(index=index, problem=read))

    def write(connection: Connection) -> LeadsDocument:
        counts = upsert_leads(connection, kept, erasure_key(services.settings))
        erased = [RejectedLead(index=index, problem=WAS_ERASED) for index in counts.erased]
        return LeadsDocument(
            added=counts.added,
            changed=counts.changed,
            repeated=list(counts.repeated),
            rejected=sorted([*rejected, *erased], key=lambda one: one.index),
        )

    return made_once(services, name, write, status=200)


def _read(index: int, body: LeadBody) -> ImportedLead | str:
    """The lead, or what is wrong with it; a column's own rules are those of an imported file."""
    for name, value in body.attributes.items():
        if not ATTRIBUTE_FIELD.search(ATTRIBUTE_PREFIX + name):
            return "attributes: a name is a letter or _ and then up to 63 letters, digits, _ or -"
        if isinstance(value, str) and "\0" in value:
            return f"attributes.{name}: holds a NUL character"
    attributes = orjson.dumps(body.attributes).decode()
    if len(attributes.encode()) > MAX_ATTRIBUTES_BYTES:
        return f"attributes: take more than {MAX_ATTRIBUTES_BYTES >> 10} kB"
    values = [getattr(body, name) for name in LEAD_COLUMNS]
    cells = ["" if value is None else str(value) for value in values]
    (read,) = LeadFile(LEAD_COLUMNS, {}).read([(index, cells)])
    if not isinstance(read, ImportedLead):
        return read.problem
    return ImportedLead(index, read.columns, attributes)


class SuppressionBody(Strict):
    """An address that must not be mailed; without a sender by nobody, which only an operator may say."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"address": "ada@example.com"}]})

    address: Annotated[Text, Field(min_length=1, max_length=320)]
    sender_id: Id | None = None
    reason: SuppressionReason = "manual"
    source: Annotated[Text, Field(min_length=1, max_length=100)] = "api"


class SuppressionDocument(BaseModel):
    """What was asked for; `is_new` is false where the address was suppressed before, with its first reason kept."""

    address: str
    sender_id: int | None
    reason: SuppressionReason
    source: str
    is_new: bool


class SuppressionRow(BaseModel):
    """An address that is not mailed; `sender_id` null: by no sender."""

    suppression_id: int
    address: str
    sender_id: int | None
    reason: SuppressionReason
    source: str
    created_at: datetime


class SuppressionPage(BaseModel):
    """Suppressions, the newest first."""

    items: list[SuppressionRow]
    next: int | None


@router.post(
    "/suppressions",
    tags=["suppressions"],
    summary="Suppress an address",
    status_code=201,
    response_model=SuppressionDocument,
)
def add_suppression(body: SuppressionBody, caller: Editor, services: Work, name: Name) -> Response:
    """Have an address not mailed any more, also by campaigns that are sending now."""
    return made_once(services, name, new_suppression(services, caller, body))


def new_suppression(
    services: Services, caller: Caller, body: SuppressionBody
) -> Callable[[Connection], SuppressionDocument]:
    """Check all of it; what is returned suppresses the address.

    Raises:
        Refusal: names the field.
    """
    if body.sender_id is not None:
        require_sender(services, caller, body.sender_id)
    elif caller.user_id is not None:
        raise field_refusal("body.sender_id", "is missing: this key speaks for one user's senders", "Name one of them.")
    known = frozenset() if body.sender_id is None else frozenset({body.sender_id})
    line = csv_line((body.address, str(body.sender_id or ""), body.reason, body.source)).encode()
    (request,) = parse_csv([b"address,sender_id,reason,source\n", line], known)
    if isinstance(request, CsvProblem):
        raise field_refusal("body.address", request.problem, "Send an address such as ada@example.com.")

    def write(connection: Connection) -> SuppressionDocument:
        return SuppressionDocument(
            address=request.address,
            sender_id=body.sender_id,
            reason=request.reason,
            source=request.source,
            is_new=bool(
                suppress(
                    connection,
                    [request],
                    services.leads.prefix(services.engine),
                    erasure_key(services.settings),
                )
            ),
        )

    return write


@router.get("/suppressions", tags=["suppressions"], summary="List suppressions, the newest first")
def list_suppressions(
    caller: AnyCaller,
    services: Work,
    limit: Limit = 50,
    after: After = None,
    address: Annotated[str | None, Query(max_length=320, pattern=r"^[^\x00]*$", description="Only this one.")] = None,
) -> SuppressionPage:
    """All of them; only those for the user's own senders where the key belongs to a user."""
    wanted = None if address is None else normalised_address(address.strip())
    rows = services.pages.suppressions(limit, after, caller.user_id, wanted)
    items = [SuppressionRow.model_validate(row) for row in rows]
    return SuppressionPage(items=items, next=items[-1].suppression_id if len(items) == limit else None)


class AuditRow(BaseModel):
    """One request that might change something; `status` null: it never answered, so nobody knows what it did."""

    entry_id: int
    at: datetime
    key_id: int
    key_name: str
    method: Literal["POST", "PUT", "PATCH", "DELETE"]
    path: str
    status: int | None


class AuditPage(BaseModel):
    """The audit log, the newest first."""

    items: list[AuditRow]
    next: int | None


@router.get("/audit", tags=["audit"], summary="List who did what, the newest first")
def list_audit(caller: Operator, services: Work, limit: Limit = 50, after: After = None) -> AuditPage:
    """Requests that might change something, with their answers; refused ones too."""
    entries = services.requests.audit(after, limit)
    items = [AuditRow.model_validate(entry, from_attributes=True) for entry in entries]
    return AuditPage(items=items, next=items[-1].entry_id if len(items) == limit else None)
