"""Everything that one wants to know of one campaign at a moment: how far it is, what it waits for, what to do.

Invariant: what is shown is read from the campaign's row, its manifest, the ledger and the account's rate; where these
do not say what a campaign waits for, that is what the answer says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Literal, Protocol

from email_platform.domain.campaigns import Campaign, CampaignStatus
from email_platform.domain.manifest import Manifest
from email_platform.runs.parts import Parts
from email_platform.sending.ledger import CampaignTotals

WaitsFor = Literal["time", "launch", "run_slot", "rate", "operator", "run"]
ENDED = frozenset({CampaignStatus.SENT, CampaignStatus.CANCELLED, CampaignStatus.FAILED})
_RATE_WINDOW_SECONDS = 10.0
_LAUNCH_SECONDS = 60.0  # the sensor looks at queued campaigns far more often
_SILENT_SECONDS = 60.0  # a run shows a sign of life far more often
_BOOKED_SECONDS = 0.5  # booked so far ahead, an account has no free place for a call now


@dataclass(frozen=True, slots=True)
class AccountUse:
    """A provider account's rate and who uses it; all of it a moment old.

    Attributes:
        account: as provider/account.
        recipients_per_second, calls_per_second: as set; None for no limit.
        share: of that rate, after the provider throttled; 1 where it did not.
        blocked_seconds: no call starts before so many seconds from now, as the provider asked.
        booked_seconds: how far ahead the account is booked.
        campaigns: how many asked for a place in the last seconds.
        campaigns_before, recipients_before: of the account, queued or sending before this campaign, and the recipients
            that they still have to reach, as far as they are counted.
        uncounted_before: of these campaigns, those whose recipients nobody has counted.
        at_work: campaigns of all accounts that are sending.
        is_leased: whether a process holds a chunk of this campaign.
    """

    account: str
    recipients_per_second: float | None = None
    calls_per_second: float | None = None
    share: float = 1.0
    blocked_seconds: float = 0.0
    booked_seconds: float = 0.0
    campaigns: int = 0
    campaigns_before: int = 0
    recipients_before: int = 0
    uncounted_before: int = 0
    at_work: int = 0
    is_leased: bool = False


class AccountUses(Protocol):
    """Looks up how provider accounts are used."""

    def of(self, campaign: Campaign) -> AccountUse:
        """The account of this campaign's sender, and the campaigns before it."""
        ...

    def owner_email(self, campaign: Campaign) -> str:
        """The address of the campaign's owner."""
        ...


@dataclass(frozen=True, slots=True)
class Waiting:
    """What a campaign waits for.

    Attributes:
        what: why it does not go on, as a sentence.
        do: what to do; empty where it goes on by itself.
    """

    kind: WaitsFor
    what: str
    do: str = ""


@dataclass(frozen=True, slots=True)
class CampaignState:
    """One campaign at a moment.

    Attributes:
        manifest: its frozen audience; None before.
        waiting: None where it is at work or at its end.
        recipients_per_second: over the last seconds where it is watched, otherwise since it was frozen.
        eta_seconds: until the last recipient; None where it cannot be estimated.
    """

    campaign: Campaign
    manifest: Manifest | None
    totals: CampaignTotals
    account: AccountUse
    waiting: Waiting | None
    recipients_per_second: float = 0.0
    eta_seconds: float | None = None

    @property
    def done(self) -> int:
        """Recipients that reached an end, known or not."""
        return self.totals.ended

    @property
    def has_ended(self) -> bool:
        """Whether nothing more happens by itself: sent, cancelled or failed."""
        return self.campaign.status in ENDED


def campaign_state(parts: Parts, accounts: AccountUses, campaign_id: int) -> CampaignState:
    """The campaign as it is now.

    Raises:
        CampaignNotFoundError: no such campaign.
    """
    campaign = parts.campaigns.get(campaign_id)
    manifest = parts.manifests.find(campaign_id)
    totals = parts.ledger.totals(campaign_id)
    account = accounts.of(campaign)
    now = parts.clock()
    state = CampaignState(campaign, manifest, totals, account, waits_for(campaign, totals, account, now))
    if manifest is None:
        return state
    end = campaign.finished_at or now
    pace = since_freeze(manifest, totals.ended, end)
    return replace(_with_rate(state, pace), recipients_per_second=since_freeze(manifest, totals.accepted, end))


def since_freeze(manifest: Manifest, recipients: int, end: datetime) -> float:
    """Recipients a second, from the freeze of the audience to the end.

    Of those accepted it is what the report says as `emails_per_minute`: a campaign of one call has no time between its
    first and its last call, and one of two calls has next to none.
    """
    return recipients / max((end - manifest.frozen_at).total_seconds(), 0.001)


def watch_campaign(
    parts: Parts, accounts: AccountUses, campaign_id: int, pause: Callable[[], None]
) -> Iterator[CampaignState]:
    """The campaign's state again and again until it has ended; the last one shows the end.

    Args:
        parts: the outside world.
        accounts: how its provider account is used.
        campaign_id: which campaign.
        pause: called between two looks.

    Raises:
        CampaignNotFoundError: no such campaign.
    """
    seen: list[tuple[datetime, int]] = []
    while True:
        state = campaign_state(parts, accounts, campaign_id)
        if state.has_ended:
            yield state
            return
        now = parts.clock()
        seen = [(at, done) for at, done in seen if now - at <= timedelta(seconds=_RATE_WINDOW_SECONDS)]
        if seen and now > seen[0][0]:
            state = _with_rate(state, max(0, state.done - seen[0][1]) / (now - seen[0][0]).total_seconds())
        seen.append((now, state.done))
        yield state
        pause()


def waits_for(campaign: Campaign, totals: CampaignTotals, account: AccountUse, now: datetime) -> Waiting | None:
    """What the campaign waits for, and what to do; None where it is at work or has ended."""
    number = campaign.campaign_id
    command = "email-platform campaign"
    match campaign.status:
        case CampaignStatus.DRAFT:
            return Waiting(
                "operator", "it is a draft", f"see it: {command} plan {number}; send it: {command} queue {number}"
            )
        case CampaignStatus.PAUSED:
            doubt = f"{command} unknown {number}; " if totals.unknown else ""
            reason = campaign.status_reason or "no reason was given"
            return Waiting("operator", f"paused: {reason}", f"{doubt}{command} resume {number}, or cancel {number}")
        case CampaignStatus.FAILED:
            reason = campaign.status_reason or "no reason was given"
            return Waiting(
                "operator",
                f"failed: {reason}",
                f"mend that, then {command} queue {number}; where its content or audience is at fault: {command} clone "
                f"{number}, and edit the copy, which goes to everybody of its audience",
            )
        case CampaignStatus.SENT if totals.unknown:
            return Waiting(
                "operator",
                f"{totals.unknown:,} recipients got a message or did not: their calls have no answer",
                f"{command} unknown {number}; events may settle them, otherwise {command} decide {number} …",
            )
        case CampaignStatus.QUEUED:
            return _queued(campaign, account, now)
        case CampaignStatus.SENDING:
            return _sending(campaign, account, now)
    return None


def _queued(campaign: Campaign, account: AccountUse, now: datetime) -> Waiting:
    if campaign.scheduled_at is not None and campaign.scheduled_at > now:
        return Waiting("time", f"waits for its time, {campaign.scheduled_at:%Y-%m-%d %H:%M:%S} UTC")
    if campaign.launched_attempt >= campaign.attempt:
        return Waiting(
            "run_slot", f"its run waits for a run slot, or is just starting; {account.at_work} campaigns are sending"
        )
    since = max((at for at in (campaign.queued_at, campaign.scheduled_at) if at is not None), default=now)
    late = now - since > timedelta(seconds=_LAUNCH_SECONDS)
    return Waiting(
        "launch",
        f"waits for the sensor `queued_campaigns` to start its run, behind {account.campaigns_before} of its account",
        "if this stays: does Dagster's daemon run, and is the sensor on? (`email-platform status`)" if late else "",
    )


def _sending(campaign: Campaign, account: AccountUse, now: datetime) -> Waiting | None:
    if account.blocked_seconds > 0:
        return Waiting(
            "rate", f"waits for rate: {account.account} asked for a pause of {account.blocked_seconds:.0f} s"
        )
    if account.booked_seconds >= _BOOKED_SECONDS:
        return Waiting(
            "rate", f"waits for rate: {rate_words(account)}, shared by {max(1, account.campaigns)} campaigns"
        )
    silent = campaign.progress_at is not None and now - campaign.progress_at > timedelta(seconds=_SILENT_SECONDS)
    if silent and not account.is_leased:
        return Waiting(
            "run",
            f"no run has shown a sign of life since {campaign.progress_at:%Y-%m-%d %H:%M:%S} UTC",
            "a new attempt starts by itself where its run is dead; its run is in Dagster's UI",
        )
    return None


def rate_words(account: AccountUse) -> str:
    """The account's rate in words."""
    limits = [
        f"{limit * account.share:,.0f} {what} a second"
        for limit, what in ((account.recipients_per_second, "recipients"), (account.calls_per_second, "calls"))
        if limit is not None
    ]
    throttled = f" ({account.share:.0%} of what is set, since the provider throttled)" if account.share < 1 else ""
    return f"{account.account} allows {' and '.join(limits) or 'any rate'}{throttled}"


def _with_rate(state: CampaignState, rate: float) -> CampaignState:
    left = state.manifest.eligible_rows - state.done if state.manifest is not None else None
    eta = left / rate if left is not None and rate and not state.has_ended else None
    return replace(state, recipients_per_second=rate, eta_seconds=eta)
