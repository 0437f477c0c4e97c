"""What a campaign waits for, by status and by its account's rate."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from email_platform.domain.campaigns import Campaign, CampaignContent, CampaignStatus, Sender
from email_platform.runs.campaign_state import AccountUse, rate_words, waits_for
from email_platform.sending.ledger import CampaignTotals

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)
CAMPAIGN = Campaign(
    17,
    1,
    "Spring",
    Sender(1, 1, "news@example.com", "News", None, "simulator", "default"),
    CampaignContent("s", "h", "t"),
    {"all": []},
    CampaignStatus.SENDING,
    None,
    None,
    1,
    progress_at=NOW,
)
IDLE = AccountUse("simulator/default", recipients_per_second=100.0)


@pytest.mark.parametrize(
    ("campaign", "account", "unknown", "kind", "words"),
    [
        ({"status": "draft"}, {}, 0, "operator", "campaign queue 17"),
        (
            {"status": "paused", "status_reason": "by Ann"},
            {},
            3,
            "operator",
            "campaign unknown 17; email-platform campaign resume 17",
        ),
        ({"status": "failed", "status_reason": "bad"}, {}, 0, "operator", "failed: bad"),
        ({"status": "sent"}, {}, 3, "operator", "3 recipients"),
        ({"status": "queued", "scheduled_at": NOW + timedelta(hours=1)}, {}, 0, "time", "2026-01-02 13:00:00 UTC"),
        ({"status": "queued", "launched_attempt": 1}, {"at_work": 4}, 0, "run_slot", "4 campaigns are sending"),
        ({"status": "queued", "queued_at": NOW - timedelta(hours=1)}, {}, 0, "launch", "daemon"),
        ({}, {"blocked_seconds": 7.0}, 0, "rate", "a pause of 7 s"),
        ({}, {"booked_seconds": 0.9, "campaigns": 2}, 0, "rate", "100 recipients a second, shared by 2"),
        ({"progress_at": NOW - timedelta(hours=1)}, {}, 0, "run", "2026-01-02 11:00:00 UTC"),
    ],
)
def test_a_campaign_says_what_it_waits_for_and_what_to_do(
    campaign: dict[str, Any], account: dict[str, Any], unknown: int, kind: str, words: str
) -> None:
    status = CampaignStatus(campaign.pop("status", "sending"))
    waiting = waits_for(
        replace(CAMPAIGN, status=status, **campaign), CampaignTotals(unknown=unknown), replace(IDLE, **account), NOW
    )
    assert waiting is not None
    assert waiting.kind == kind
    assert words in f"{waiting.what} / {waiting.do}"


@pytest.mark.parametrize(
    ("status", "values", "account"),
    [
        ("sending", {}, {}),
        ("sending", {"progress_at": NOW - timedelta(hours=1)}, {"is_leased": True}),
        ("sent", {}, {}),
        ("cancelled", {}, {}),
    ],
)
def test_a_campaign_at_work_or_at_its_end_waits_for_nothing(
    status: str, values: dict[str, Any], account: dict[str, Any]
) -> None:
    campaign = replace(CAMPAIGN, status=CampaignStatus(status), **values)
    assert waits_for(campaign, CampaignTotals(), replace(IDLE, **account), NOW) is None


def test_a_queued_campaign_does_not_call_for_help_at_once() -> None:
    queued = replace(CAMPAIGN, status=CampaignStatus.QUEUED, queued_at=NOW)
    waiting = waits_for(queued, CampaignTotals(), IDLE, NOW)
    assert waiting is not None
    assert waiting.do == ""


def test_a_throttled_rate_is_shown_as_what_is_left_of_it() -> None:
    assert rate_words(replace(IDLE, share=0.5)) == (
        "simulator/default allows 50 recipients a second (50% of what is set, since the provider throttled)"
    )
    assert rate_words(AccountUse("ses/a")) == "ses/a allows any rate"
