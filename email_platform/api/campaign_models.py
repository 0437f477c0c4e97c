"""What requests and answers about campaigns look like."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from email_platform.adapters.postgres.accounts import NewCampaign
from email_platform.api.problems import field_refusal
from email_platform.api.values import Id, Strict, Text
from email_platform.audience.conditions import parse_condition
from email_platform.content.compile import check_content, compile_content
from email_platform.content.prepare import prepared_content
from email_platform.domain.addresses import mailable_address
from email_platform.domain.campaigns import CampaignContent, CampaignStatus, OnUnknown
from email_platform.domain.local_time import scheduled_time
from email_platform.domain.typed_address import address_problem

_LONGEST_NAME = 500
_LONGEST_BODY = 4 << 20
_GREATEST_VERSION = 2**31 - 1
_EXAMPLE: dict[str, Any] = {
    "name": "Spring sale",
    "sender_id": 1,
    "subject": "{{ first_name | default('Hello') }}, spring is here",
    "html": "<p>Everything is 20% off.</p><p><a href='{{ unsubscribe_url }}'>Unsubscribe</a></p>",
    "condition": {"all": [{"field": "country", "op": "in", "value": ["DE", "FR"]}]},
}


def _time(written: str) -> str:
    scheduled_time(written)
    return written


def _address(written: str) -> str:
    if problem := address_problem(written):
        raise ValueError(problem)
    return mailable_address(written)


Time = Annotated[
    Text,
    AfterValidator(_time),
    Field(max_length=100, description="A time with its zone, as `2026-12-01 09:00 Europe/Berlin` or with an offset."),
]
Address = Annotated[Text, AfterValidator(_address), Field(max_length=320, description="An email address.")]
Reason = Annotated[Text, Field(max_length=1000, description="Why; it is kept with the status.")]


class CampaignBody(Strict):
    """All that a campaign says; docs/templates.md and docs/conditions.md have the languages."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    name: Annotated[Text, Field(min_length=1, max_length=_LONGEST_NAME)]
    sender_id: Id
    subject: Annotated[Text, Field(min_length=1, max_length=10_000, description="A template.")]
    html: Annotated[Text, Field(max_length=_LONGEST_BODY, description="A template; html or text must be there.")] = ""
    text: Annotated[Text, Field(max_length=_LONGEST_BODY, description="A template.")] = ""
    condition: Annotated[dict[str, Any], Field(description='The audience; {"all": []} is everybody.')]
    mjml: Annotated[bool, Field(description="Whether the html is MJML.")] = False
    inline_css: bool = False
    on_unknown: OnUnknown = "hold"
    scheduled_at: Time | None = None

    def checked(self) -> NewCampaign:
        """What it says, with a condition and templates that a run can use.

        Raises:
            Refusal, InvalidConditionError, InvalidTemplateError: says what is wrong where.
        """
        if not self.html and not self.text:
            raise field_refusal("body.html", "is empty, as the text is", "Give html, text or both.")
        parse_condition(self.condition)
        content = CampaignContent(self.subject, self.html, self.text, self.mjml, self.inline_css)
        check_content(compile_content(prepared_content(content)))
        at = None if self.scheduled_at is None else scheduled_time(self.scheduled_at)
        return NewCampaign(self.name, self.sender_id, content, self.condition, self.on_unknown, at)


class CampaignEdit(CampaignBody):
    """All that the draft is to say; what is left out gets its default."""

    model_config = ConfigDict(json_schema_extra={"examples": [{**_EXAMPLE, "version": 1}]})

    version: Annotated[
        int, Field(ge=1, le=_GREATEST_VERSION, description="The version that you have edited; an older one gets 409.")
    ]


class CampaignContentDocument(BaseModel):
    """What a campaign says, as PUT takes it again."""

    campaign_id: int
    version: int
    name: str
    sender_id: int
    subject: str
    html: str
    text: str
    condition: Any
    mjml: bool
    inline_css: bool
    on_unknown: OnUnknown
    scheduled_at: datetime | None


class CloneBody(Strict):
    """What the copy is called; without a name: Copy of …"""

    name: Annotated[Text, Field(min_length=1, max_length=_LONGEST_NAME)] | None = None


class Draft(BaseModel):
    """A campaign that was made or edited."""

    campaign_id: int
    name: str
    status: CampaignStatus
    version: int


class CampaignRow(BaseModel):
    """One campaign of the list; counts are at the campaign's own address."""

    campaign_id: int
    name: str
    status: CampaignStatus
    status_reason: str | None
    version: int
    owner_id: int
    sender_id: int
    created_at: datetime | None
    scheduled_at: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None


class CampaignPage(BaseModel):
    """Campaigns, the newest first; `next` is null on the last page."""

    items: list[CampaignRow]
    next: int | None


class CampaignDocument(BaseModel):
    """One campaign at a moment: counts from the ledger, what it waits for, what to do."""

    campaign_id: int
    name: str
    status: CampaignStatus
    status_reason: str | None
    version: int
    owner: str
    sender_id: int
    from_address: str
    account: str
    subject: str
    html_bytes: int
    text_bytes: int
    mjml: bool
    inline_css: bool
    condition: Any
    on_unknown: OnUnknown
    problem: str | None
    created_at: datetime | None
    scheduled_at: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    attempt: int
    frozen_at: datetime | None
    eligible: int | None
    excluded_by_reason: dict[str, int]
    accepted: int
    rejected: int
    unknown: int
    abandoned: int
    planned: int
    calls: int
    chunks: int
    chunks_finished: int
    recipients_per_second: float
    eta_seconds: int | None
    campaigns_before: int
    waits_for: str | None
    waits_because: str | None
    to_do: str | None


class Sample(BaseModel):
    """One recipient's message; where `problem` says why there is none, the rest is empty."""

    lead_id: int
    problem: str
    address: str
    subject: str
    headers: dict[str, str]
    text: str
    html: str


class PlanWarning(BaseModel):
    """A remark, and how many of the reviewed messages it is about."""

    warning: str
    messages: int


class PlanDocument(BaseModel):
    """What sending would mean; nothing was sent or changed."""

    campaign_id: int
    name: str
    status: CampaignStatus
    status_reason: str | None
    considered: int
    eligible: int
    excluded_by_reason: dict[str, int]
    chunks: int
    calls: int
    recipients_per_call: int
    check: str
    scheduled_at: datetime | None
    account: str
    recipients_per_second: float | None
    calls_per_second: float | None
    share: float
    campaigns_before: int
    recipients_before: int
    uncounted_before: int
    alone_seconds: float | None
    longest_seconds: float | None
    reviewed: int
    warnings: list[PlanWarning]
    samples: list[Sample]


class TrialBody(Strict):
    """Who gets the test message, and whose values it shows."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"to": "me@example.com", "as_lead": 1}]})

    to: Address
    as_lead: Id


class TrialDocument(BaseModel):
    """What the provider answered.

    Attributes:
        status: ``accepted``; ``rejected``: `error` has its words; ``unknown``: it may have been sent.
    """

    campaign_id: int
    status: Literal["accepted", "rejected", "unknown"]
    subject: str
    provider_message_id: str
    error: str


class QueueBody(Strict):
    """When it is sent; without a time as soon as possible, or at the campaign's own time."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"at": "2026-12-01 09:00 Europe/Berlin"}]})

    at: Time | None = None


class ReasonBody(Strict):
    """Why; it is kept with the status, behind *by an operator*: nobody is called for it."""

    reason: Reason = "by the API"
