"""The guard's judgement: limits, samples, zero points, and alerts that nobody takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from email_platform.domain.campaigns import CampaignStatus
from email_platform.errors import PartUnavailableError
from email_platform.runs.guard import (
    Feedback,
    GuardAlert,
    GuardLimits,
    GuardReport,
    WatchedCampaign,
    breach,
    guard_campaigns,
)

LIMITS = GuardLimits()


@pytest.mark.parametrize(
    ("feedback", "reason"),
    [
        (Feedback(), None),
        (Feedback(199, 199, 199), None),  # too small a sample
        (Feedback(200, 10, 0), None),  # exactly at the limit
        (Feedback(200, 11, 0), "11 of 200 messages bounced hard (5.50%; the limit is 5.00%)"),
        (Feedback(1000, 50, 3), None),
        (Feedback(200, 0, 2), None),  # 1 %, but of two complaints
        (Feedback(1000, 0, 4), "4 of 1,000 messages were complained about (0.40%; the limit is 0.30%)"),
        (Feedback(0, 5, 5), None),
    ],
)
def test_a_limit_is_passed_when_the_rate_is_above_it_in_a_large_enough_sample(
    feedback: Feedback, reason: str | None
) -> None:
    assert breach(LIMITS, feedback) == reason


def test_both_limits_are_named_where_both_are_passed() -> None:
    assert str(breach(LIMITS, Feedback(200, 100, 100))).count("the limit is") == 2


@dataclass
class Memory:
    """A register of one campaign, by the same rules as PostgreSQL's."""

    campaign: WatchedCampaign
    alerts: list[GuardAlert] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)

    def watched(self) -> Sequence[WatchedCampaign]:
        return [self.campaign]

    def stop(self, campaign_id: int, feedback: Feedback, reason: str) -> None:
        self.stops.append(reason)
        self.campaign = replace(self.campaign, seen=feedback, stands_stopped=True, status=CampaignStatus.PAUSED)
        self.alerts.append(GuardAlert(campaign_id, reason, feedback))

    def move_zero_point(self, campaign_id: int, feedback: Feedback) -> None:
        self.campaign = replace(self.campaign, seen=feedback)

    def unsent_alerts(self) -> Sequence[GuardAlert]:
        return list(self.alerts)

    def mark_alerted(self, campaign_id: int) -> None:
        self.alerts.clear()

    def resume(self) -> None:
        self.campaign = replace(self.campaign, stands_stopped=False, status=CampaignStatus.QUEUED)


@dataclass
class Counts:
    counts: dict[int, tuple[int, ...]]

    def feedback_counts(self, campaign_ids: Sequence[int]) -> Mapping[int, tuple[int, ...]]:
        return self.counts


def look(memory: Memory, accepted: int, bounced: int, complained: int = 0, taken: bool = True) -> GuardReport:
    def alert(_: GuardAlert) -> None:
        if not taken:
            raise PartUnavailableError("nobody there")

    return guard_campaigns(memory, Counts({7: (bounced, complained)}), lambda _: accepted, LIMITS, alert)


@pytest.fixture
def memory() -> Memory:
    return Memory(WatchedCampaign(7, "Seven", CampaignStatus.SENDING, Feedback(), stands_stopped=False))


def test_a_resumed_campaign_is_not_stopped_by_the_numbers_that_its_operator_saw(memory: Memory) -> None:
    look(memory, accepted=1000, bounced=60)
    look(memory, accepted=1000, bounced=90)  # bounces that come late, while it stands still
    memory.resume()
    look(memory, accepted=1000, bounced=90)
    look(memory, accepted=1300, bounced=104)  # 14 of 300 new ones
    assert len(memory.stops) == 1
    look(memory, accepted=1300, bounced=107)
    assert memory.stops[1] == "17 of 300 messages bounced hard (5.67%; the limit is 5.00%)"


def test_a_campaign_that_stands_stopped_is_reported_until_somebody_resumes_it(memory: Memory) -> None:
    assert [len(look(memory, 1000, 60).alerts), len(look(memory, 1000, 60).alerts)] == [1, 0]
    assert look(memory, 1000, 60).standing == ("campaign 7 'Seven' stands paused",)
    memory.resume()
    assert look(memory, 1000, 60).standing == ()


def test_an_alert_that_nobody_took_is_sent_again_and_once(memory: Memory) -> None:
    first = look(memory, 1000, 60, taken=False)
    assert (first.alerts, first.unsent_alerts) == ((), 1)
    assert [len(look(memory, 1000, 60).alerts) for _ in range(2)] == [1, 0]


def test_many_blocks_stop_a_campaign_and_alert_since_its_sender_is_in_trouble(memory: Memory) -> None:
    def blocked(count: int) -> GuardReport:
        return guard_campaigns(memory, Counts({7: (0, 0, count)}), lambda _: 1000, LIMITS, lambda _: None)

    assert blocked(50).alerts == ()
    [alert] = blocked(51).alerts
    assert memory.stops == [
        "51 of 1,000 messages were blocked for reputation, content or policy (5.10%; the limit is 5.00%)"
    ]
    assert alert.condition().details["blocked"] == 51
    memory.resume()
    assert blocked(51).alerts == (), "what the operator has seen counts no more"


def test_a_campaign_without_feedback_asks_no_ledger(memory: Memory) -> None:
    def never(_: int) -> int:
        raise AssertionError("the ledger was asked")

    report = guard_campaigns(memory, Counts({}), never, LIMITS, lambda _: None)
    assert report == GuardReport(watched=1)
