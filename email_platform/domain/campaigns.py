"""Campaigns and the one state machine that says which change of status is legal.

Invariant: no code sets a campaign's status without `check_transition`; cancelled is final. A sent campaign may be
queued again only to send what an operator decided about unknown calls: the ledger lets nothing else through.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Protocol

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
    CampaignStatus.SENT: frozenset({CampaignStatus.QUEUED}),
    CampaignStatus.CANCELLED: frozenset(),
}

OnUnknown = Literal["hold", "resend"]
LONGEST_PAUSE = 64  # times the usual silence, between two attempts of a campaign that gets nowhere


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
        mjml: whether the html template is MJML, still to be turned into html.
        inline_css: whether the html's style sheets are still to be written into its elements. Both are done once, when
            the audience is frozen: a manifest's content has neither left to do.
    """

    subject_template: str
    html_template: str
    text_template: str
    mjml: bool = False
    inline_css: bool = False


@dataclass(frozen=True, slots=True)
class Campaign:
    """One row of ``campaign`` joined with its sender; times are UTC-aware.

    Attributes:
        condition: the audience condition as parsed JSON, not yet validated.
        attempt: counts launches (first launch, each resume); part of the run key.
        fruitless_attempts: how many in a row came to nothing, by the reaper's count.
        attempt_mark: how far the campaign was when the present attempt was counted.
        estimated_rows: recipients still to be reached, as last looked up; None where nobody has looked.
        problem: what of its row cannot be read, and how to mend it; None where all of it can. Such a campaign is not
            launched: it fails with this as the reason.
        on_unknown: what to do with a call whose outcome is unknown where the provider honours no keys.
        version: raised by each edit; an editor who names an older one is refused.
        progress_at: the last sign of life of a run that works on it.
        launched_attempt: the last attempt of which Dagster is known to have a run.
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
    finished_at: datetime | None = field(default=None)
    fruitless_attempts: int = 0
    attempt_mark: int = 0
    estimated_rows: int | None = None
    problem: str | None = None
    version: int = 1
    queued_at: datetime | None = None
    started_at: datetime | None = None
    progress_at: datetime | None = None
    launched_attempt: int = 0


class CampaignStore(Protocol):
    """The campaigns of the OLTP database; every change of status goes through the state machine, race-free."""

    def get(self, campaign_id: int) -> Campaign:
        """The campaign with its sender.

        Raises:
            CampaignNotFoundError: there is no such row.
        """
        ...

    def newest(
        self, limit: int, status: CampaignStatus | None = None, owner_email: str | None = None
    ) -> Sequence[Campaign]:
        """Campaigns, the newest first; of any status and owner where none is given."""
        ...

    def schedule(self, campaign_id: int, moment: datetime) -> Campaign:
        """Have the campaign sent not before this moment.

        Raises:
            CampaignNotFoundError: there is no such row.
            IllegalTransitionError: it is sending, sent or cancelled.
        """
        ...

    def due(self, small_first: int, longest_waiting: int, behind: Collection[int] = ()) -> Sequence[Campaign]:
        """Queued campaigns whose time has come and of which no run is known: the next ones to launch.

        A campaign whose scheduled time cannot be read is among them, so that it fails with that as the reason.

        Args:
            small_first: at most so many of those with the fewest recipients (ties by id); those that nobody has
                sized come last.
            longest_waiting: and so many of the others, the longest waiting first (ties by id), so that a large one
                gets its turn however many small ones come.
            behind: ids of campaigns that come after all others.
        """
        ...

    def unsized(self, limit: int) -> Sequence[Campaign]:
        """Campaigns that `due` may give whose recipients nobody has counted or estimated; the newest first."""
        ...

    def note_sizes(self, rows: Mapping[int, int]) -> None:
        """Keep how many recipients campaigns have still to reach, by campaign id."""
        ...

    def note_launched(self, attempts: Mapping[int, int]) -> None:
        """Keep that a run of these attempts is on record, by campaign id: `due` does not give them again."""
        ...

    def change_status(self, campaign_id: int, wanted: CampaignStatus, reason: str | None = None) -> Campaign:
        """Make one legal change of status under the row's lock and return the campaign as it is then.

        Asking for the status that the campaign already has changes its reason only (a re-run may ask twice).

        Raises:
            CampaignNotFoundError: there is no such row.
            IllegalTransitionError: the state machine forbids it.
            AccountingError: it cannot be sent, since a chunk of it is not finished.
        """
        ...

    def note_progress(self, campaign_id: int) -> None:
        """Say that a run is working on the campaign; the reaper resumes campaigns that fall silent."""
        ...

    def silent(self, silent_seconds: float, after_id: int, limit: int) -> Sequence[Campaign]:
        """Campaigns in ``sending``, or queued and launched, of which no run has shown a sign of life for so long.

        After attempts in a row that came to nothing the time doubles with each, up to `LONGEST_PAUSE` times.

        Args:
            silent_seconds: for how long.
            after_id: only campaigns with greater ids.
            limit: at most so many, in order of their ids.
        """
        ...

    def ended_before(self, moment: datetime, campaign_ids: Sequence[int]) -> Sequence[int]:
        """Which of these campaigns were sent or cancelled before the moment, in order of their ids."""
        ...

    def begin_attempt(self, campaign_id: int, attempt: int, mark: int) -> bool:
        """Count an attempt of a silent campaign, once a run of it is on record; False where it is counted already.

        Args:
            campaign_id: which campaign.
            attempt: the new attempt's number.
            mark: how far the campaign is, as a number that grows with every progress; the same mark as at the
                beginning of the last attempt makes that one fruitless. Queueing it again starts the count at 0.
        """
        ...
