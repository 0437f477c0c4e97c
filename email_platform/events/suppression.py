"""Who must not be mailed any more, from events, from the unsubscribe page and by hand.

Invariant: every hard bounce, complaint and unsubscription becomes a suppression of the address that was mailed, once;
asking twice changes nothing. An event that proves nothing about the address (a soft bounce, a block, a robot's
answer, the provider's own list) suppresses nobody.

| event | suppressed | for |
| --- | --- | --- |
| bounced, hard | the address | every sender: nobody lives there |
| complained | the address, and the lead's of today | the campaign's sender; every sender by `ComplaintScope` |
| unsubscribed | the address, and the lead's of today | the campaign's sender |
| complaint_withdrawn | lifts what a complaint before it suppressed | the same senders |

Where the campaign is not known, every sender is meant: rather too few mails than one unwanted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from email_platform.domain.addresses import normalised_address
from email_platform.domain.suppression_reasons import SuppressionReason
from email_platform.events.event import Event
from email_platform.events.mailed import Mailed

ComplaintScope = Literal["sender", "everyone"]
"""For whom a complaint counts: the sender whose mail it was, or every sender of the platform."""


@dataclass(frozen=True, slots=True)
class SuppressionRequest:
    """One address to suppress; idempotent.

    Attributes:
        address: as `normalised_address` gives it; empty where only the lead's present address is known.
        source: where it comes from: ``ses/default``, ``one_click``, ``import`` ...
        everywhere: for every sender; else for `sender_id`, or else for the sender of `campaign_id`.
        lead_id: whose present address is suppressed too; 0 for none.
        created_at: since when, where that is known; else now.
        lifts: the other way round: remove suppressions of this reason that are not newer than `created_at`.
    """

    address: str
    reason: SuppressionReason
    source: str
    everywhere: bool
    lead_id: int = 0
    sender_id: int = 0
    campaign_id: int = 0
    created_at: datetime | None = None
    lifts: bool = False


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

    def present_addresses(self, lead_ids: Sequence[int]) -> Mapping[int, str]:
        """The addresses that these leads have now, as `normalised_address` gives them; leads without one are left
        out.
        """
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


def asks_to_suppress(event: Event) -> bool:
    """Whether the event changes who may be mailed: then it must be known whom we had mailed."""
    return _reason(event) is not None


def suppressions_from(
    events: Iterable[Event],
    mailed: Mapping[str, Mailed] | None = None,
    complaint_scope: ComplaintScope = "sender",
) -> list[SuppressionRequest]:
    """What the events ask to suppress, each request once, in order.

    Args:
        events: of one batch.
        mailed: by event key, whom we mailed, where that was found; it counts more than the address in the event.
        complaint_scope: for whom a complaint counts.
    """
    requests: dict[SuppressionRequest, None] = {}
    for event in events:
        reason = _reason(event)
        if reason is None:
            continue
        found = (mailed or {}).get(event.event_key)
        address = normalised_address(found.address if found else event.recipient)
        page_lead_id, sender_id = ids_of_page(event)
        everywhere = reason == "hard_bounce" or (reason == "complaint" and complaint_scope == "everyone")
        lifts = event.type == "complaint_withdrawn"
        lead_id = page_lead_id
        if found and reason != "hard_bounce" and not lifts:
            lead_id = found.lead_id  # the person has decided, and may have another address by now
        if not address and not lead_id:
            continue
        requests[
            SuppressionRequest(
                address=address,
                reason=reason,
                source="one_click" if page_lead_id else f"{event.provider}/{event.account}",
                everywhere=everywhere,
                lead_id=lead_id,
                sender_id=sender_id,
                campaign_id=0 if everywhere else event.campaign_id,
                # A complaint that is taken back must not lift a newer one.
                created_at=event.occurred_at if reason == "complaint" else None,
                lifts=lifts,
            )
        ] = None
    return list(requests)


def _reason(event: Event) -> SuppressionReason | None:
    if event.type == "bounced":
        return "hard_bounce" if event.subtype == "hard" else None
    if event.type in ("complained", "complaint_withdrawn"):
        return "complaint"
    return "unsubscribe" if event.type == "unsubscribed" else None


def ids_of_page(event: Event) -> tuple[int, int]:
    """Lead and sender of an event of our own unsubscribe page; zeros for any other."""
    if event.provider != "platform":
        return 0, 0
    lead, _, sender = event.provider_message_id.partition(":")
    return int(lead), int(sender)
