"""One pass over what the receivers took in: stage it, load it, and act on what it says.

Invariant: each step reads what is true from the bucket, PostgreSQL and the warehouse, so a pass that died is made
good by the next one, whoever makes it. Suppressions come first: they are durable before anything is loaded.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from email_platform.campaign_run import LoadReport, Parts, load_staged
from email_platform.events.staging import EventIntake, StagingReport, stage_inbox
from email_platform.guard import FeedbackCounts, GuardAlert, GuardLimits, GuardRegister, GuardReport, guard_campaigns
from email_platform.ports import Clock, ObjectStore, Warehouse


class EventWarehouse(Warehouse, FeedbackCounts, Protocol):
    """Bulk loads, and what the loaded events say."""


@dataclass(frozen=True, slots=True)
class EventParts:
    """What a pass needs beside a campaign's `Parts`.

    Attributes:
        alert: tells one alert; PartUnavailableError where nobody took it.
    """

    store: ObjectStore
    intake: EventIntake
    guard: GuardRegister
    limits: GuardLimits
    alert: Callable[[GuardAlert], None]
    clock: Clock


@dataclass(frozen=True, slots=True)
class EventsReport:
    """What one pass did."""

    staged: StagingReport
    loaded: LoadReport
    guarded: GuardReport
    seconds: float


def take_in_events(events: EventParts, parts: Parts, warehouse: EventWarehouse) -> EventsReport:
    """Stage the inbox, load everything staged, and pause campaigns that pass a limit; idempotent.

    Raises:
        PartUnavailableError: a part is away; what was done stays done, the rest is the next pass's.
    """
    began_seconds = time.monotonic()
    staged = stage_inbox(events.store, events.intake, events.clock)
    loaded = load_staged(parts.register, warehouse)
    guarded = guard_campaigns(
        events.guard,
        warehouse,
        lambda campaign_id: parts.ledger.totals(campaign_id).accepted,
        events.limits,
        events.alert,
    )
    return EventsReport(staged, loaded, guarded, time.monotonic() - began_seconds)
