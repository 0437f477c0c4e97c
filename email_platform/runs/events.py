"""One pass over what the receivers took in: stage it, load it, and act on what it says.

Invariant: each step reads what is true from the bucket, PostgreSQL and the warehouse, so a pass that died is made
good by the next one, whoever makes it. Suppressions come first: they are durable before anything is loaded.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from email_platform.domain.ports import Clock, ObjectStore, Warehouse
from email_platform.errors import PartUnavailableError
from email_platform.events.inbox import EventIntake, StagingReport, SuppressionPolicy, stage_inbox
from email_platform.runs.guard import (
    Feedback,
    FeedbackCounts,
    GuardAlert,
    GuardLimits,
    GuardRegister,
    GuardReport,
    guard_campaigns,
)
from email_platform.runs.load import LoadReport, load_staged
from email_platform.runs.parts import Parts
from email_platform.runs.unknown import resolve_unknown_by_evidence, unknown_messages

_logger = logging.getLogger(__name__)


class EventWarehouse(Warehouse, FeedbackCounts, Protocol):
    """Bulk loads, and what the loaded events say."""

    def acceptance_proofs(self, campaign_id: int, message_ids: Collection[UUID]) -> Mapping[UUID, str]:
        """Which of these messages have an event, with the provider's message id where an event gives it, else ""."""
        ...


@dataclass(frozen=True, slots=True)
class EventParts:
    """What a pass needs beside a campaign's `Parts`.

    Attributes:
        alert: sends one alert; PartUnavailableError where nobody took it.
        policy: how suppressions follow from events.
    """

    store: ObjectStore
    intake: EventIntake
    guard: GuardRegister
    limits: GuardLimits
    alert: Callable[[GuardAlert], None]
    clock: Clock
    policy: SuppressionPolicy = field(default_factory=SuppressionPolicy)


@dataclass(frozen=True, slots=True)
class UnknownResolved:
    """Calls of unknown outcome that events have settled.

    Attributes:
        campaigns: that have such calls.
        recipients_unknown: of whom still nobody knows.
    """

    campaigns: int = 0
    calls: int = 0
    recipients: int = 0
    recipients_unknown: int = 0


@dataclass(frozen=True, slots=True)
class EventsReport:
    """What one pass did."""

    staged: StagingReport
    loaded: LoadReport
    resolved: UnknownResolved
    guarded: GuardReport
    seconds: float


def take_in_events(events: EventParts, parts: Parts, warehouse: EventWarehouse) -> EventsReport:
    """Stage the inbox, load everything staged, settle unknown calls, pause campaigns that pass a limit; idempotent.

    Raises:
        PartUnavailableError: a part is away; finished work stays done, the rest is left to the next pass.
    """
    began_seconds = time.monotonic()
    staged = stage_inbox(events.store, events.intake, events.clock, policy=events.policy)
    for notice in staged.notices:
        _logger.error("%s", notice)
        with suppress(PartUnavailableError):  # it stands in the log and among the events
            events.alert(GuardAlert(0, notice, Feedback()))
    loaded = load_staged(parts.register, warehouse)
    resolved = resolve_unknown_calls(parts, warehouse)
    if resolved.recipients:  # their chunks are staged again
        loaded = loaded.and_then(load_staged(parts.register, warehouse))
    guarded = guard_campaigns(
        events.guard,
        warehouse,
        lambda campaign_id: parts.ledger.totals(campaign_id).accepted,
        events.limits,
        events.alert,
    )
    return EventsReport(staged, loaded, resolved, guarded, time.monotonic() - began_seconds)


def resolve_unknown_calls(parts: Parts, warehouse: EventWarehouse) -> UnknownResolved:
    """Settle every unknown call of which the warehouse holds an event.

    Asked again at each pass and not event by event: an event may come before its call counts as unknown.
    """
    report = UnknownResolved()
    for campaign_id in parts.ledger.campaigns_with_unknown():
        wanted = unknown_messages(parts, campaign_id)
        if not wanted:
            continue  # their processes are still at it
        applied = resolve_unknown_by_evidence(parts, campaign_id, warehouse.acceptance_proofs(campaign_id, wanted))
        report = UnknownResolved(
            report.campaigns + 1,
            report.calls + applied.calls_resolved,
            report.recipients + applied.recipients_proved,
            report.recipients_unknown + applied.recipients_unknown,
        )
    return report
