"""What the warehouse knows of single emails, as look-ups give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class EmailEvent:
    """One event that a provider reported about an email."""

    type: str
    subtype: str
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class FoundEmail:
    """One email of this platform or of the old system's imported table, or one lead that a campaign left out.

    Attributes:
        status: of a delivery (accepted, rejected, unknown, abandoned), ``excluded`` of a lead that was left out, or
            the old table's own word.
        error: the provider's code and message, or why the lead was left out; empty without any.
        occurred_at: when the provider answered; of an excluded lead when the row was loaded; of an old email when it
            was sent, or last changed where it was not.
        is_old: from the old system's table.
        events: oldest first; none of old emails.
    """

    campaign_id: int
    lead_id: int
    email: str = field(repr=False)
    status: str
    error: str
    provider: str
    provider_message_id: str
    occurred_at: datetime
    is_old: bool
    events: tuple[EmailEvent, ...] = ()


class EmailLookup(Protocol):
    """Single emails of the warehouse; a method raises PartUnavailableError where it does not answer in time."""

    def of_campaign_and_lead(self, campaign_id: int, lead_id: int) -> Sequence[FoundEmail]:
        """The campaign's email to the lead, and what the old system's table has of the two; newest first."""
        ...

    def of_address(self, address: str, limit: int) -> Sequence[FoundEmail]:
        """The newest emails to the address and the campaigns that left it out, newest first."""
        ...
