"""One schema for what every provider reports about a message after it took it.

Invariants: an event's identity is (provider, event_id), and the same notification always gives the same
identity, however often and in whatever order it arrives; a message's status follows from the rank of its
events alone, so a late or repeated event never moves it back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args
from uuid import UUID

import orjson
import pyarrow as pa

EventType = Literal[
    "accepted",  # the provider took the message from us
    "delayed",  # the recipient's server asks to wait; the provider tries again
    "delivered",
    "opened",
    "clicked",
    "resubscribed",  # the recipient, or an operator at the provider, lifted a suppression
    "auto_replied",  # a robot answered: out of office, a challenge, a change of address. No bounce: the mail arrived
    "complaint_withdrawn",  # the recipient marked the message as not spam
    "unsubscribed",
    "rejected",  # the provider took the call but never tried to deliver (suppressed, virus, rendering)
    "blocked",  # refused for the sender's reputation, the content or a policy; the address is good
    "bounced",
    "complained",
    "other",  # a type that we do not know; its name is the subtype
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)

BounceSubtype = Literal["hard", "soft"]

NORMALISER_VERSION = 2
"""Add one with each fix of a normaliser that changes how a body is read: a replay then outranks the old reading."""

MAXIMUM_DETAILS_BYTES = 4096
MAXIMUM_DETAIL_CHARACTERS = 1000
MAXIMUM_EVENT_ID_CHARACTERS = 200

# One row per event; grain (provider, event_id) after deduplication. Times in UTC milliseconds.
EVENT_SCHEMA = pa.schema(
    [
        pa.field("event_key", pa.string(), nullable=False),  # "<provider>:<event_id>", the identity in one column
        pa.field("provider", pa.string(), nullable=False),
        pa.field("account", pa.string(), nullable=False),
        pa.field("event_id", pa.string(), nullable=False),
        pa.field("type", pa.string(), nullable=False),  # EventType
        pa.field("subtype", pa.string(), nullable=False),  # hard or soft for bounced, else the provider's word
        pa.field("status_rank", pa.uint8(), nullable=False),  # see status_rank()
        pa.field("campaign_id", pa.int64(), nullable=False),  # 0 where the provider carries none
        pa.field("message_id", pa.string(), nullable=False),  # ours: canonical UUID text, "" where not carried
        pa.field("provider_message_id", pa.string(), nullable=False),
        pa.field("recipient", pa.string(), nullable=False),  # whom we mailed, as the provider wrote it; "" unknown
        pa.field("occurred_at", pa.timestamp("ms", tz="UTC"), nullable=False),  # the provider's clock
        pa.field("received_at", pa.timestamp("ms", tz="UTC"), nullable=False),  # the receiver's clock
        pa.field("normaliser_version", pa.uint16(), nullable=False),  # of two readings, the higher counts
        pa.field("details", pa.string(), nullable=False),  # JSON object, at most MAXIMUM_DETAILS_BYTES
    ]
)


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened to one message of one recipient.

    Attributes:
        event_id: the provider's, or derived from the notification's content where it gives none.
        account: of the provider, as in ``sender.provider_account``.
        subtype: ``hard`` or ``soft`` for bounces, else the provider's own word or empty.
        recipient: the address that we mailed, in the provider's spelling; empty where the provider does not say it.
        message_id: ours as canonical UUID text, where the provider carries it back, else empty.
        campaign_id: likewise, else 0.
        details: JSON object with the provider's reason and the like, bounded.
    """

    provider: str
    account: str
    event_id: str
    type: EventType
    subtype: str
    campaign_id: int
    message_id: str
    provider_message_id: str
    recipient: str
    occurred_at: datetime
    received_at: datetime
    details: str

    @property
    def event_key(self) -> str:
        """The identity in one text."""
        return f"{self.provider}:{self.event_id}"


# A hard bounce or a block after "delivered" is an asynchronous bounce and wins. A mail that was opened has arrived,
# so a block stands below "opened". A soft bounce stands below "delivered": SES reports out-of-office replies as
# transient bounces of delivered mail, and Mailgun a temporary failure before each further try; where it was the last
# word, nothing of a higher rank follows.
_RANK: Mapping[str, int] = {
    "accepted": 10,
    "delayed": 20,
    "bounced:soft": 30,
    "delivered": 40,
    "blocked": 45,
    "opened": 50,
    "clicked": 60,
    "unsubscribed": 70,
    "rejected": 80,
    "bounced:hard": 90,
    "complained": 100,
}


def status_rank(type: EventType, subtype: str = "") -> int:
    """How much an event says about a message's status; the highest wins. 0: says nothing (1 to 100 else)."""
    return _RANK.get(f"bounced:{subtype}" if type == "bounced" else type, 0)


def derived_event_id(*parts: object) -> str:
    """An id that follows from the content, for providers that give none: the same parts, the same id."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode("utf-8", "replace")).hexdigest()[:40]


def bounded_event_id(event_id: str) -> str:
    """The provider's id, or a hash of it where it is unreasonably long."""
    return event_id if len(event_id) <= MAXIMUM_EVENT_ID_CHARACTERS else derived_event_id(event_id)


def bounded_details(details: Mapping[str, object]) -> str:
    """The details as one JSON object without empty values, at most `MAXIMUM_DETAILS_BYTES`.

    Long values are cut; values that no longer fit are left out, the last first, and ``truncated`` says so.
    """
    kept = {name: str(value)[:MAXIMUM_DETAIL_CHARACTERS] for name, value in details.items() if value not in (None, "")}
    text = _json(kept)
    while len(text) > MAXIMUM_DETAILS_BYTES:
        kept.pop("truncated", None)
        kept.popitem()
        kept["truncated"] = "true"
        text = _json(kept)
    return text.decode()


def storable_text(value: str) -> str:
    """The text as UTF-8 takes it: halves of a character that stand alone become U+FFFD, as an unreadable byte does."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def _json(document: Mapping[str, str]) -> bytes:
    return orjson.dumps({name: storable_text(value) for name, value in document.items()})


def canonical_message_id(text: object) -> str:
    """Our message id as canonical UUID text, or "" where the value is none of ours."""
    if not isinstance(text, str):
        return ""
    try:
        return str(UUID(text))
    except ValueError:
        return ""


def carried_campaign_id(value: object) -> int:
    """The campaign id that a provider carried back, or 0."""
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 18 else 0


def event_table(events: Sequence[Event] | Iterable[Event]) -> pa.Table:
    """The events as rows of `EVENT_SCHEMA`, in order, each identity once (the last wins)."""
    once = list({(event.provider, event.event_id): event for event in events}.values())
    columns: dict[str, list[object]] = {
        name: [getattr(event, name) for event in once]
        for name in EVENT_SCHEMA.names
        if name not in ("status_rank", "normaliser_version")
    }
    columns["normaliser_version"] = [NORMALISER_VERSION] * len(once)
    columns["status_rank"] = [status_rank(event.type, event.subtype) for event in once]
    return pa.table([pa.array(columns[field.name], field.type) for field in EVENT_SCHEMA], schema=EVENT_SCHEMA)
