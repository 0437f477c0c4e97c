"""What one look at the queue does: bounded in time, small campaigns first, and one odd campaign stops no other."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import Any, cast

import pytest

from email_platform.domain.campaigns import Campaign, CampaignContent, CampaignStatus, Sender
from email_platform.errors import InvalidConditionError, PartUnavailableError
from email_platform.runs.launch import (
    COUNTING_SECONDS,
    FRUITLESS_ATTEMPTS,
    LARGE_ROWS,
    SIZING_SECONDS,
    due_launches,
    relaunch,
    size_campaigns,
)
from email_platform.runs.parts import Parts
from email_platform.sending.ledger import CampaignTotals


def a_campaign(campaign_id: int, condition: object = "1", **values: Any) -> Campaign:
    return Campaign(
        **{
            "campaign_id": campaign_id,
            "owner_id": 1,
            "name": "Spring",
            "sender": Sender(1, 1, "news@example.com", "News", None, "simulator", "default"),
            "content": CampaignContent("s", "h", ""),
            "condition": condition,
            "status": CampaignStatus.QUEUED,
            "status_reason": None,
            "scheduled_at": None,
            "attempt": 1,
            **values,
        }
    )


class Queue:
    """The few methods of a CampaignStore that a look at the queue uses, over a list."""

    def __init__(self, *campaigns: Campaign) -> None:
        self.campaigns = list(campaigns)
        self.sizes: dict[int, int] = {}
        self.changes: list[tuple[int, CampaignStatus, str | None]] = []

    def unsized(self, limit: int) -> list[Campaign]:
        return self.campaigns[:limit]

    def note_sizes(self, rows: Mapping[int, int]) -> None:
        self.sizes |= rows

    def due(self, small_first: int, longest_waiting: int, behind: Collection[int] = ()) -> list[Campaign]:
        return self.campaigns

    def change_status(self, campaign_id: int, wanted: CampaignStatus, reason: str | None = None) -> None:
        self.changes.append((campaign_id, wanted, reason))


class Leads:
    """An AudienceSource whose conditions are numbers: so many leads meet them; or what it raises."""

    def __init__(self) -> None:
        self.counted: list[object] = []

    def estimate_rows(self, condition: object) -> int:
        if isinstance(condition, Exception):
            raise condition
        return 10 * int(str(condition))

    def resolved(self, condition: object) -> object:
        return condition

    def other_types(self, condition: object, timeout_seconds: float) -> tuple[()]:
        return ()

    def count_rows(self, condition: object, at_most_rows: int, timeout_seconds: float) -> int | None:
        assert 0 < timeout_seconds <= SIZING_SECONDS + COUNTING_SECONDS
        self.counted.append(condition)
        return min(int(str(condition)), at_most_rows)


def parts_of(queue: Queue, leads: Leads, totals: CampaignTotals | None = None) -> Parts:
    ledger = SimpleNamespace(totals=lambda _: totals)
    nothing = SimpleNamespace(find=lambda _: None)
    return cast(Parts, SimpleNamespace(campaigns=queue, audience=leads, ledger=ledger, manifests=nothing))


def stopped_clock() -> float:
    return 0.0


def test_leads_are_counted_and_the_estimate_stands_for_many() -> None:
    queue = Queue(a_campaign(3, "7"), a_campaign(2, str(LARGE_ROWS * 2)))
    sized, odd = size_campaigns(parts_of(queue, Leads()), stopped_clock)
    assert (sized, odd) == (2, [])
    assert queue.sizes == {3: 7, 2: LARGE_ROWS * 20}


def test_sizing_stops_when_its_time_is_over_and_keeps_what_it_has() -> None:
    queue, leads = Queue(*(a_campaign(number) for number in range(9, 0, -1))), Leads()
    ticks = count(0)
    size_campaigns(parts_of(queue, leads), lambda: next(ticks) * SIZING_SECONDS / 3)
    assert list(queue.sizes) == [9, 8], "the newest first"
    assert len(leads.counted) < 3


def test_one_campaign_that_raises_is_named_and_the_others_are_sized() -> None:
    queue = Queue(a_campaign(3, RuntimeError("?")), a_campaign(2, InvalidConditionError("$", "?")), a_campaign(1, "7"))
    _, odd = size_campaigns(parts_of(queue, Leads()), stopped_clock)
    assert [one.row_id for one in odd if "RuntimeError" in one.reason] == ["3"]
    assert queue.sizes.keys() == {3, 2, 1}
    assert queue.sizes[1] == 7


def test_a_part_that_is_away_is_no_campaigns_fault() -> None:
    queue = Queue(a_campaign(3, PartUnavailableError("PostgreSQL does not answer")))
    with pytest.raises(PartUnavailableError):
        size_campaigns(parts_of(queue, Leads()), stopped_clock)


def test_a_campaign_that_cannot_be_read_is_failed_with_the_reason_and_not_launched() -> None:
    queue = Queue(a_campaign(3, problem="its condition is odd"), a_campaign(1, "7", estimated_rows=7))
    due = due_launches(parts_of(queue, Leads()), (), stopped_clock)
    assert [launch.run_key for launch in due.launches] == ["campaign-1-attempt-1"]
    assert [(one.row_id, one.reason) for one in due.odd] == [("3", "its condition is odd")]
    assert queue.changes == [(3, CampaignStatus.FAILED, "its condition is odd")]


def totals(**values: Any) -> CampaignTotals:
    return replace(CampaignTotals(), **values)


def test_a_relaunch_counts_nothing_and_gives_the_mark_that_the_attempt_begins_with() -> None:
    queue = Queue()
    campaign = a_campaign(1, status=CampaignStatus.SENDING, attempt=4, attempt_mark=3, fruitless_attempts=7)
    one = relaunch(parts_of(queue, Leads(), totals(accepted=5)), campaign, "run r")
    assert one is not None
    assert (one.launch.run_key, one.mark) == ("campaign-1-attempt-5", 5)
    assert queue.changes == []


def test_a_campaign_is_paused_instead_of_its_eighth_fruitless_attempt() -> None:
    campaign = a_campaign(1, status=CampaignStatus.SENDING, attempt_mark=5, fruitless_attempts=FRUITLESS_ATTEMPTS - 1)
    queue = Queue()
    assert relaunch(parts_of(queue, Leads(), totals(accepted=5)), campaign, "run r") is None
    ((_, status, reason),) = queue.changes
    assert status is CampaignStatus.PAUSED
    assert str(reason).endswith("came to nothing; the last one: run r")
