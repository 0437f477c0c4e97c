"""A small warehouse with two weeks of sending, made as the platform makes its own: staged objects, loads, dbt.

Invariant: the same rows each time, and something to see in every chart: each outcome of a message, each reason to leave
a lead out, several users, domains and days.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from email_platform.adapters.assembly import open_warehouse
from email_platform.adapters.object_store import S3ObjectStore
from email_platform.local.stack.stack import clean_environment, running_stack
from tests.integration.dbt_project.test_dbt_reports import Reports, about, campaign, delivery, event, user

BEGAN = datetime(2026, 3, 2, 8, tzinfo=UTC)
USERS = ("Ann Berger", "Bilal Haddad", "Chiara Conti")
CAMPAIGNS = ("Spring newsletter", "Spring sale", "Treueaktion DACH", "Product update", "Private beta", "Easter offers")
_DOMAINS = ("gmail.example", "outlook.example", "yahoo.example", "web.example", "kunde.example", "post.example")
_REASONS = (
    ("hard", "550 5.1.1 no such user"),
    ("hard", "550 5.1.10 no such domain"),
    ("soft", "452 4.2.2 mailbox full"),
    ("soft", "421 4.4.1 no answer from host"),
    ("block", "554 5.7.1 refused by policy"),
    ("block", "554 5.6.0 refused for its content"),
)
_EXCLUSIONS = {
    "excluded_suppressed": 31, "excluded_unsubscribed": 57, "excluded_invalid_address": 12,
    "excluded_duplicate_address": 19, "excluded_unreadable": 2,
}  # fmt: skip


@contextmanager
def small_warehouse(folder: Path) -> Iterator[Reports]:
    """S3 and ClickHouse in this folder, loaded and built; stopped on leaving."""
    with (
        running_stack(
            folder / "state", environ=clean_environment(), parts=("postgres", "s3", "clickhouse")
        ) as settings,
        open_warehouse(settings) as warehouse,
    ):
        target = folder / "dbt"
        target.mkdir()
        reports = Reports(settings, warehouse, S3ObjectStore.from_settings(settings), folder / "objects", target)
        _load(reports)
        reports.models()
        yield reports


def _load(reports: Reports) -> None:
    chance = random.Random(7)
    events: list[Mapping[str, Any]] = []
    campaigns: list[Mapping[str, Any]] = []
    for number, name in enumerate(CAMPAIGNS, 1):
        recipients = 300 + 170 * (number % 4)
        owner = 1 + number % len(USERS)
        starts = BEGAN + timedelta(days=2 * number, hours=number)
        deliveries = []
        for lead in range(recipients):
            at = starts + timedelta(seconds=chance.uniform(0, 5 * 3600))
            deliveries.append(_delivery(chance, number, lead, owner, at))
            if deliveries[-1]["status"] == "accepted":
                events += _events(chance, number, lead, at)
        reports.load_deliveries(number, deliveries)
        left_out = {reason: leads * (1 + number % 3) for reason, leads in _EXCLUSIONS.items()}
        values: dict[str, Any] = {
            "name": name, "owner_id": owner, "subject": name, "frozen_at": starts, "started_at": starts,
            "queued_at": starts, "created_at": starts, "finished_at": starts + timedelta(hours=5), **left_out,
            "considered": recipients + sum(left_out.values()),
        }  # fmt: skip
        campaigns.append(campaign(number, eligible=recipients, **values))
    reports.load_events(*events)
    suppressions: list[Mapping[str, Any]] = [
        {
            "id": f"{reason}/{day}", "created_on": (BEGAN + timedelta(days=day)).date(), "reason": reason,
            "source": "simulator/default", "sender_id": None, "suppressions": chance.randrange(1, most),
        }
        for day in range(16)
        for reason, most in (("hard_bounce", 40), ("unsubscribe", 25), ("complaint", 5))
    ]  # fmt: skip
    users = [user(number, name=name) for number, name in enumerate(USERS, 1)]
    reports.load_dimensions(
        {"app_user": users, "campaign": campaigns, "suppression": suppressions}, BEGAN + timedelta(days=20)
    )


def _delivery(chance: random.Random, campaign_id: int, lead: int, owner: int, at: datetime) -> Mapping[str, Any]:
    answered = chance.random()
    values: dict[str, Any] = {"owner_id": owner, "email": f"l{lead}@{chance.choices(_DOMAINS, (9, 6, 4, 3, 2, 1))[0]}"}
    if answered < 0.02:
        return delivery(campaign_id, lead, "rejected", at, error_code="550", **values)
    return delivery(campaign_id, lead, "unknown" if answered < 0.025 else "accepted", at, **values)


def _events(chance: random.Random, campaign_id: int, lead: int, at: datetime) -> Iterator[Mapping[str, Any]]:
    on = about(campaign_id, lead)
    key = f"{campaign_id}-{lead}"
    if chance.random() < 0.06:
        subtype, reason = chance.choices(_REASONS, (6, 2, 4, 2, 2, 1))[0]
        seconds = chance.uniform(1, 1800)
        details = f'{{"reason": "{reason}"}}'
        bounced_at = at + timedelta(seconds=seconds)
        yield event("bounced", subtype, key=f"bounced-{key}", at=bounced_at, details=details, **on)
        return
    at += timedelta(seconds=chance.uniform(1, 600))
    yield event("delivered", key=f"delivered-{key}", at=at, **on)
    if chance.random() < 0.42:
        at += timedelta(hours=chance.expovariate(1 / 6))
        yield event("opened", key=f"opened-{key}", at=at, **on)
        for kind, share in (("clicked", 0.25), ("unsubscribed", 0.05), ("complained", 0.01)):
            if chance.random() < share:
                yield event(kind, key=f"{kind}-{key}", at=at + timedelta(minutes=2), **on)  # type: ignore[arg-type]
