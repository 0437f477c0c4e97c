"""Reads untrusted JSON with typed refusals: the reason names a path, never a value.

Invariant: nothing but MalformedEventError comes out of reading a provider's body.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parseaddr
from typing import Any

import orjson

from email_platform.domain.addresses import trimmed_address
from email_platform.errors import MalformedEventError
from email_platform.events.event import Event, EventType, bounded_details, bounded_event_id, storable_text

_LARGEST_DELAY = timedelta(days=400)
_LARGEST_CLOCK_SKEW = timedelta(days=2)
MAXIMUM_TEXT_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Notification:
    """What a normaliser is given: where the body came from, and the body as parsed JSON.

    Attributes:
        webhook_id: see `ReceivedBody`.
    """

    provider: str
    account: str
    received_at: datetime
    webhook_id: str
    document: Any

    def event(
        self,
        *,
        event_id: str,
        type: EventType,
        recipient: str,
        occurred_at: datetime,
        subtype: str = "",
        campaign_id: int = 0,
        message_id: str = "",
        provider_message_id: str = "",
        details: Mapping[str, object] | None = None,
    ) -> Event:
        """One event of this notification, with everything bounded.

        Raises:
            MalformedEventError: it happened more than 400 days before it was received, or after: ClickHouse
                keeps a partition a month, and refuses an insert into more than 100 of them.
        """
        if not self.received_at - _LARGEST_DELAY <= occurred_at <= self.received_at + _LARGEST_CLOCK_SKEW:
            raise MalformedEventError("the event's time lies too long before its reception, or after it")
        return Event(
            provider=self.provider,
            account=self.account,
            event_id=bounded_event_id(event_id),
            type=type,
            subtype=subtype[:100],
            campaign_id=campaign_id,
            message_id=message_id,
            provider_message_id=storable_text(provider_message_id)[:MAXIMUM_TEXT_CHARACTERS],
            recipient=storable_text(bare_address(recipient))[:MAXIMUM_TEXT_CHARACTERS],
            occurred_at=occurred_at,
            received_at=self.received_at,
            details=bounded_details(details or {}),
        )


def bare_address(recipient: str) -> str:
    """The address without a display name: SES and Resend give back ``Ann <ann@example.com>`` as it was sent."""
    return trimmed_address(parseaddr(recipient)[1] or recipient if "<" in recipient else recipient)


def parse_json(body: bytes | str) -> Any:
    """The parsed body.

    A byte that is no UTF-8 (a diagnostic in Latin-1) and half a surrogate pair lose nothing but themselves: the text
    is kept, with U+FFFD in their place. Both readers refuse what is no JSON.

    Raises:
        MalformedEventError: it is not JSON; the text is not repeated.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        position = error.pos
    readable = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    try:
        # The standard library's reader takes lone surrogates in escapes, and NaN, which no provider sends.
        return json.loads(readable, parse_constant=_no_constant)
    except (ValueError, RecursionError):  # ValueError: among others, a number of thousands of digits
        # `from None`: the cause's text carries the document.
        raise MalformedEventError(f"the body is not JSON (at character {position})") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def as_object(value: Any, path: str) -> dict[str, Any]:
    """The value, which must be a JSON object."""
    if not isinstance(value, dict):
        raise MalformedEventError(f"{path} must be an object")
    return value


def as_list(value: Any, path: str) -> list[Any]:
    """The value, which must be a JSON array."""
    if not isinstance(value, list):
        raise MalformedEventError(f"{path} must be an array")
    return value


def optional_object(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The object under the name; empty where it is absent or something else (PHP writes [] for {})."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def text(document: Mapping[str, Any], name: str, path: str = "") -> str:
    """The non-empty text under the name."""
    value = document.get(name)
    if not isinstance(value, str) or not value:
        raise MalformedEventError(f"{path}{name} must be a text")
    return storable_text(value)


def optional_text(document: Mapping[str, Any], name: str) -> str:
    """The text under the name, a number as text, or ""."""
    value = document.get(name)
    if isinstance(value, str):
        return storable_text(value)
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else ""


def time_from_iso(value: Any, path: str) -> datetime:
    """An ISO 8601 time with an offset, in UTC."""
    try:
        time = datetime.fromisoformat(value)
        if time.tzinfo is None:
            raise MalformedEventError(f"{path} must have an offset from UTC")
        return time.astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        raise MalformedEventError(f"{path} must be an ISO 8601 time") from None


def time_from_epoch(value: Any, path: str) -> datetime:
    """Seconds since 1970, whole or not, as a UTC time."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return datetime.fromtimestamp(float(value), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        raise MalformedEventError(f"{path} must be seconds since 1970") from None
