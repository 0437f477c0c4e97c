"""Stops a campaign that would cost its sender's reputation: too many hard bounces, complaints or blocks.

Invariant: a campaign is stopped once for the same numbers. An operator who resumes it has seen the counts up to
then, also those that came while it stood still: they are the zero point from which it is judged again.

Counted from distinct messages with an event in the warehouse, against recipients accepted in the ledger, after
each load of events. So it costs one aggregate over the rows of the campaigns that are watched, a prefix of the
table's key, and no counter is written per event: a provider that repeats or reorders its events changes nothing.
Events come later than acceptances, so a rate can only be too low at first, never too high.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from email_platform.alerting.condition import Condition
from email_platform.alerting.rules import GuardedCampaign, feedback_condition, notice_condition
from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import PartUnavailableError


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What a campaign may reach.

    Attributes:
        bounce_rate: hard bounces per accepted message.
        complaint_rate: complaints per accepted message.
        blocked_rate: refusals for reputation, content or policy per accepted message: the sender is in trouble.
        minimum_accepted: below this sample nothing is concluded.
        minimum_events: nor from fewer bounces, or complaints, than this: one complaint of 200 is above 0.3 %.
    """

    bounce_rate: float = 0.05
    complaint_rate: float = 0.003
    minimum_accepted: int = 200
    minimum_events: int = 3
    blocked_rate: float = 0.05


@dataclass(frozen=True, slots=True)
class Feedback:
    """Distinct messages of one campaign: accepted by the provider, bounced hard, complained about, blocked."""

    accepted: int = 0
    bounced: int = 0
    complained: int = 0
    blocked: int = 0

    def since(self, seen: Feedback) -> Feedback:
        """What came after it was seen."""
        return Feedback(
            self.accepted - seen.accepted,
            self.bounced - seen.bounced,
            self.complained - seen.complained,
            self.blocked - seen.blocked,
        )


@dataclass(frozen=True, slots=True)
class WatchedCampaign:
    """A campaign whose feedback is judged.

    Attributes:
        seen: the zero point.
        stands_stopped: it is paused by the guard and nobody has resumed it.
    """

    campaign_id: int
    name: str
    status: CampaignStatus
    seen: Feedback
    stands_stopped: bool


@dataclass(frozen=True, slots=True)
class GuardAlert:
    """What an operator must hear of.

    Attributes:
        campaign_id: 0 for what a provider says of an account.
        text: what happened.
        status: the campaign's.
        occasion: which stop it is; a campaign may be stopped again after it was resumed.
    """

    campaign_id: int
    text: str
    feedback: Feedback
    status: str = ""
    occasion: str = ""

    def condition(self) -> Condition:
        """What goes into the outbox; a later look at the campaign finds the same, or that it is over."""
        if not self.campaign_id:
            return notice_condition(self.text)
        return feedback_condition(
            GuardedCampaign(self.campaign_id, self.status, self.text, self.occasion, asdict(self.feedback))
        )


class FeedbackCounts(Protocol):
    """Counts of the warehouse."""

    def feedback_counts(self, campaign_ids: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
        """Distinct messages that bounced hard, were complained about, and were blocked; campaigns without any are
        left out.
        """
        ...


class GuardRegister(Protocol):
    """The guard's memory; every method is one transaction."""

    def watched(self) -> Sequence[WatchedCampaign]:
        """Campaigns that are queued or sending, that the guard has paused, or that were sent a short time ago."""
        ...

    def stop(self, campaign_id: int, feedback: Feedback, reason: str) -> None:
        """Move the zero point, note an alert, and pause the campaign where that is possible (it may be sent)."""
        ...

    def move_zero_point(self, campaign_id: int, feedback: Feedback) -> None:
        """What came while the campaign stood still is seen too."""
        ...

    def unsent_alerts(self) -> Sequence[GuardAlert]:
        """Alerts that nobody has taken yet."""
        ...

    def mark_alerted(self, campaign_id: int) -> None:
        """The campaign's last alert was taken."""
        ...


@dataclass(frozen=True, slots=True)
class GuardReport:
    """What one look found.

    Attributes:
        alerts: sent now.
        unsent_alerts: alerts that nobody took; the next look tries again.
        standing: campaigns that were paused by an earlier look and that nobody has resumed, in words.
    """

    watched: int
    alerts: tuple[GuardAlert, ...] = ()
    unsent_alerts: int = 0
    standing: tuple[str, ...] = ()


def breach(limits: GuardLimits, new: Feedback) -> str | None:
    """Which limit the feedback passes, in words; None where it passes none, or is too little to judge."""
    if new.accepted < limits.minimum_accepted:
        return None
    measures = (
        ("bounced hard", new.bounced, limits.bounce_rate),
        ("were complained about", new.complained, limits.complaint_rate),
        ("were blocked for reputation, content or policy", new.blocked, limits.blocked_rate),
    )
    passed = [
        f"{count:,} of {new.accepted:,} messages {what} ({count / new.accepted:.2%}; the limit is {limit:.2%})"
        for what, count, limit in measures
        if count >= limits.minimum_events and count > limit * new.accepted
    ]
    return "; ".join(passed) or None


def guard_campaigns(
    register: GuardRegister,
    counts: FeedbackCounts,
    accepted: Callable[[int], int],
    limits: GuardLimits,
    alert: Callable[[GuardAlert], None],
) -> GuardReport:
    """Judge every watched campaign, pause those that pass a limit, and alert the operator; safe to repeat.

    Args:
        register: the guard's memory.
        counts: the warehouse.
        accepted: the ledger's count of one campaign.
        limits: what a campaign may reach.
        alert: sends one alert; PartUnavailableError where nobody took it.
    """
    watched = register.watched()
    of_campaign = counts.feedback_counts([campaign.campaign_id for campaign in watched]) if watched else {}
    for campaign in watched:
        if campaign.campaign_id not in of_campaign:
            continue
        feedback = Feedback(accepted(campaign.campaign_id), *of_campaign[campaign.campaign_id])
        if campaign.stands_stopped:
            register.move_zero_point(campaign.campaign_id, feedback)
            continue
        reason = breach(limits, feedback.since(campaign.seen))
        if reason is not None:
            register.stop(campaign.campaign_id, feedback, reason)
    sent: list[GuardAlert] = []
    unsent = register.unsent_alerts()
    for one in unsent:
        try:
            alert(one)
        except PartUnavailableError:
            continue
        register.mark_alerted(one.campaign_id)
        sent.append(one)
    standing = [
        f"campaign {campaign.campaign_id} {campaign.name!r} stands paused"
        for campaign in watched
        if campaign.stands_stopped
    ]
    return GuardReport(len(watched), tuple(sent), len(unsent) - len(sent), tuple(standing))
