"""Campaigns and the one state machine that says which change of status is legal.

Invariant: no code sets a campaign's status without `check_transition`; sent and cancelled are final.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal

from email_platform.errors import IllegalTransitionError


class CampaignStatus(StrEnum):
    """Where a campaign is in its life.

    ``failed`` needs an operator (bad condition, bad template); ``paused`` stops sending between calls;
    a campaign whose process died stays ``sending`` and resumes by itself.
    """

    DRAFT = "draft"
    QUEUED = "queued"
    SENDING = "sending"
    PAUSED = "paused"
    SENT = "sent"
    CANCELLED = "cancelled"
    FAILED = "failed"


LEGAL_TRANSITIONS: dict[CampaignStatus, frozenset[CampaignStatus]] = {
    CampaignStatus.DRAFT: frozenset({CampaignStatus.QUEUED, CampaignStatus.CANCELLED}),
    CampaignStatus.QUEUED: frozenset(
        {
            CampaignStatus.DRAFT,
            CampaignStatus.SENDING,
            CampaignStatus.PAUSED,
            CampaignStatus.CANCELLED,
            CampaignStatus.FAILED,
        }
    ),
    CampaignStatus.SENDING: frozenset(
        {CampaignStatus.PAUSED, CampaignStatus.SENT, CampaignStatus.CANCELLED, CampaignStatus.FAILED}
    ),
    CampaignStatus.PAUSED: frozenset({CampaignStatus.QUEUED, CampaignStatus.CANCELLED}),
    CampaignStatus.FAILED: frozenset({CampaignStatus.QUEUED, CampaignStatus.CANCELLED}),
    CampaignStatus.SENT: frozenset(),
    CampaignStatus.CANCELLED: frozenset(),
}

OnUnknown = Literal["hold", "resend"]


def check_transition(campaign_id: int, current: CampaignStatus, wanted: CampaignStatus) -> None:
    """Return silently where the state machine allows the change.

    Raises:
        IllegalTransitionError: names both states and what is allowed from the current one.
    """
    if wanted in LEGAL_TRANSITIONS[current]:
        return
    allowed = ", ".join(sorted(LEGAL_TRANSITIONS[current])) or "nothing: it is final"
    raise IllegalTransitionError(
        f"campaign {campaign_id} cannot go from {current} to {wanted}; from {current} it may go to {allowed}"
    )


@dataclass(frozen=True, slots=True)
class Sender:
    """Who a campaign is from and which provider account carries it.

    Attributes:
        provider: name of the adapter (``simulator``, ``ses``, ``sendgrid``, ``postmark``, ``resend``, ``mailgun``).
        provider_account: names the account whose rate and credentials are used; never a credential itself.
    """

    sender_id: int
    owner_id: int
    from_address: str
    from_name: str
    reply_to: str | None
    provider: str
    provider_account: str


@dataclass(frozen=True, slots=True)
class CampaignContent:
    """What is sent, frozen with the manifest so that a retried call has the same bytes.

    Attributes:
        subject_template, html_template, text_template: Jinja2 sources; the text may be empty.
    """

    subject_template: str
    html_template: str
    text_template: str


@dataclass(frozen=True, slots=True)
class Campaign:
    """One row of ``campaign`` joined with its sender; times are UTC-aware.

    Attributes:
        condition: the audience condition as parsed JSON, not yet validated.
        attempt: counts launches (first launch, each resume); part of the run key.
        on_unknown: what to do with a call whose outcome is unknown where the provider honours no keys.
    """

    campaign_id: int
    owner_id: int
    name: str
    sender: Sender
    content: CampaignContent
    condition: Any
    status: CampaignStatus
    status_reason: str | None
    scheduled_at: datetime | None
    attempt: int
    on_unknown: OnUnknown = "hold"
    created_at: datetime | None = field(default=None)
