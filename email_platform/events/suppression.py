"""Who must not be mailed any more, from events, from the unsubscribe page and by hand.

Invariant: every hard bounce, complaint and unsubscription becomes a suppression, once; asking twice changes
nothing. Soft bounces suppress nobody.

Scope: a dead address and a complaint count for every sender; an unsubscription for the sender of its
campaign, and for every sender where the campaign is not known: rather too few mails than one unwanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol, get_args

from email_platform.domain.addresses import normalised_address
from email_platform.events.event import Event

SuppressionReason = Literal["hard_bounce", "complaint", "unsubscribe", "manual"]
SUPPRESSION_REASONS: tuple[SuppressionReason, ...] = get_args(SuppressionReason)


@dataclass(frozen=True, slots=True)
class SuppressionRequest:
    """One address to suppress; idempotent.

    Attributes:
        address: lower case and trimmed; empty where the lead's present address is meant.
        source: where it comes from: ``ses/default``, ``one_click``, ``import`` ...
        everywhere: for every sender; else for `sender_id`, or else for the sender of `campaign_id`.
        created_at: since when, where that is known; else now.
    """

    address: str
    reason: SuppressionReason
    source: str
    everywhere: bool
    lead_id: int = 0
    sender_id: int = 0
    campaign_id: int = 0
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Suppression:
    """One row of ``suppression``; sender_id None means every sender."""

    address: str
    sender_id: int | None
    reason: SuppressionReason
    source: str
    created_at: datetime


class SuppressionStore(Protocol):
    """The table ``suppression``."""

    def add(self, requests: Iterable[SuppressionRequest]) -> int:
        """Suppress, in one transaction; returns how many rows are new."""
        ...

    def all(self) -> Iterator[Suppression]:
        """Every suppression, by address, streamed."""
        ...

    def of_address(self, address: str) -> Sequence[Suppression]:
        """What is known of one address, whichever sender it concerns."""
        ...

    def newest(self, limit: int) -> Sequence[Suppression]:
        """The newest first."""
        ...

    def remove(self, address: str, sender_id: int | None) -> Sequence[Suppression]:
        """Let the address be mailed again, by this sender alone or (None) by all; returns what was removed."""
        ...

    def sender_ids(self) -> frozenset[int]:
        """Every sender that a suppression can name."""
        ...


def suppressions_from(events: Iterable[Event]) -> list[SuppressionRequest]:
    """What the events ask to suppress, each request once, in order."""
    requests: dict[SuppressionRequest, None] = {}
    for event in events:
        reason = _reason(event)
        address = normalised_address(event.recipient.strip())
        lead_id, sender_id = _ids_of_page(event)
        if reason is None or (not address and not lead_id):
            continue
        everywhere = reason != "unsubscribe"
        requests[
            SuppressionRequest(
                address=address,
                reason=reason,
                source="one_click" if lead_id else f"{event.provider}/{event.account}",
                everywhere=everywhere,
                lead_id=lead_id,
                sender_id=sender_id,
                campaign_id=0 if everywhere else event.campaign_id,
            )
        ] = None
    return list(requests)


def _reason(event: Event) -> SuppressionReason | None:
    if event.type == "bounced":
        return "hard_bounce" if event.subtype == "hard" else None
    if event.type == "complained":
        return "complaint"
    return "unsubscribe" if event.type == "unsubscribed" else None


def _ids_of_page(event: Event) -> tuple[int, int]:
    """Lead and sender of an event of our own unsubscribe page, which knows no address; else zeros."""
    if event.provider != "platform":
        return 0, 0
    lead, _, sender = event.provider_message_id.partition(":")
    return int(lead), int(sender)
