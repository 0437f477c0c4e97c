"""What an operator reads first of a step that ended: what happened, what it means, and the cure."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from email_platform import errors
from email_platform.domain.campaigns import Campaign, CampaignContent, CampaignStatus, Sender
from email_platform.runs.ending import ending_of, ending_of_stop


def every_error() -> list[type[errors.EmailPlatformError]]:
    found, left = [], [errors.EmailPlatformError]
    while left:
        kind = left.pop()
        found.append(kind)
        left += kind.__subclasses__()
    return [kind for kind in found if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_every_error_of_the_platform_ends_a_step_with_two_lines_and_the_cure(
    kind: type[errors.EmailPlatformError],
) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "it went wrong")
    vars(error).update(campaign_id=17, reason="it went wrong", archived_at=datetime(2026, 1, 2, tzinfo=UTC))
    happened, meaning, cure = str(ending_of(error, 17)).split("\n")
    assert happened
    assert meaning.endswith(".")
    assert cure.startswith("Do: ")
    assert not re.search(r"\{|\bID\b", cure)


def test_a_failure_of_a_campaign_names_the_command_with_its_number() -> None:
    refused = ending_of(errors.AccountRefusedError("the provider refused: 403 no such key"), 17)
    assert refused.happened == "the provider refused: 403 no such key"
    assert "email-platform campaign resume 17" in refused.cure
    assert "clone 17" in ending_of(errors.InvalidConditionError("$.all[0]", "no such field"), 17).cure
    assert "restart" in ending_of(errors.PortTakenError("taken")).cure, "as its parent, a setting"


def test_an_error_that_nobody_planned_is_named_with_its_type_and_called_a_fault() -> None:
    ending = ending_of(ZeroDivisionError("division by zero"))
    assert ending.happened == "ZeroDivisionError: division by zero"
    assert "fault of the platform" in ending.meaning


CAMPAIGN = Campaign(
    campaign_id=17,
    owner_id=1,
    name="Spring sale",
    sender=Sender(1, 1, "news@shop.example", "The shop", None, "simulator", "default"),
    content=CampaignContent("subject", "html", "text"),
    condition={"all": []},
    status=CampaignStatus.PAUSED,
    status_reason="by an operator",
    scheduled_at=None,
    attempt=2,
)


@pytest.mark.parametrize(
    ("status", "happened", "cure"),
    [
        ("paused", "campaign 17 'Spring sale' is paused: by an operator", "email-platform campaign resume 17"),
        ("cancelled", "campaign 17 'Spring sale' is cancelled: by an operator", "campaign clone 17"),
        ("queued", "campaign 17 'Spring sale' was stopped and queued again", "nothing to do"),
        ("draft", "campaign 17 'Spring sale' is a draft", "email-platform campaign queue 17"),
    ],
)
def test_a_stopped_campaign_says_who_stopped_it_and_how_it_goes_on(status: str, happened: str, cure: str) -> None:
    ending = ending_of_stop(replace(CAMPAIGN, status=CampaignStatus(status)))
    assert ending is not None
    assert ending.happened == happened
    assert cure in ending.cure


@pytest.mark.parametrize("status", ["sending", "sent", "failed"])
def test_a_campaign_that_may_send_or_has_failed_was_not_stopped_by_anybody(status: str) -> None:
    assert ending_of_stop(replace(CAMPAIGN, status=CampaignStatus(status))) is None
